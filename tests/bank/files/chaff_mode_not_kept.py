"""Chaff: an existing file's permissions are forgotten.

Task: atomic_save
Seen when: the existing file is 0600 (or 0640) and the umask is 022: after the save it is 0644.
"""

import os
import zipfile
from pathlib import Path

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    path = Path(path).resolve()
    temp = path.with_name(path.name + ".tmp")
    try:
        temp.unlink(missing_ok=True)
        with open(temp, "wb") as file:
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    finally:
        temp.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory):
    handle = os.open(directory, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def verify_file(path):
    with open(path, "rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise CheckpointError(f"{path}: not a torch zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: {type(error).__name__}") from None
    if damaged is not None:
        raise CheckpointError(f"{path}: {damaged} is damaged")
