"""Chaff: mkstemp makes its file 0600, and nobody changes that.

Task: atomic_save
Seen when: a new file under umask 022 is 0600, not 0644, and an existing 0644 file becomes 0600:
colleagues cannot read it.
"""

import glob
import os
import tempfile
import zipfile
from pathlib import Path

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    path = Path(path).resolve()
    for stale in path.parent.glob(glob.escape(f".{path.name}.") + "????????.tmp"):
        stale.unlink()
    handle, temp = tempfile.mkstemp(".tmp", f".{path.name}.", path.parent)
    try:
        with open(handle, "wb") as file:
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        os.unlink(temp)
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
