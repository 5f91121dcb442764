"""Chaff: returns True or False and raises nothing.

Task: verify_file
Seen when: the file is damaged: no exception; the file is sound: True and not None.
"""

import os
import zipfile
from pathlib import Path

import torch


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
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                return False
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception:
        return False
    return True
