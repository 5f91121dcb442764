"""Chaff: the temporary file is in the system's temp directory, and is moved from there.

Task: atomic_save
Seen when: TMPDIR is on another filesystem: the move is then a copy onto the target, which a kill
leaves half written; with a kill during the save, the leftover is in TMPDIR; a hard link to the
old file shows the new content.
"""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    path = Path(path).resolve()
    temp = Path(tempfile.gettempdir()) / (path.name + ".tmp")
    try:
        temp.unlink(missing_ok=True)
        torch.save(obj, temp)
        if path.exists():
            os.chmod(temp, path.stat().st_mode & 0o7777)
        with open(temp, "rb") as file:
            os.fsync(file.fileno())
        shutil.move(temp, path)
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
