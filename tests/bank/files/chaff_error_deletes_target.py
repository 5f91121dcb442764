"""Chaff: the clean-up after an exception also removes the target.

Task: atomic_save
Seen when: saving over an existing file fails: the old checkpoint is gone.
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
            if path.exists():
                os.chmod(temp, path.stat().st_mode & 0o7777)
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
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
