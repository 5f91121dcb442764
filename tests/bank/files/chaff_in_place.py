"""Chaff: saves straight onto the target.

Task: atomic_save
Seen when: killed in the middle of the write, or an exception while saving: the old file is gone
and what is there does not load.
"""

import os
import zipfile

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    with open(path, "wb") as file:
        torch.save(obj, file)
        file.flush()
        os.fsync(file.fileno())


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
