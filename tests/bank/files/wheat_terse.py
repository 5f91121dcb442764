"""Wheat: as short as it goes; torch.save by path, one predictable temporary name."""

import os
import zipfile

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    path = os.path.realpath(path)
    temp = path + ".part"
    try:
        if os.path.lexists(temp):
            os.unlink(temp)
        torch.save(obj, temp)
        if os.path.exists(path):
            os.chmod(temp, os.stat(path).st_mode & 0o7777)
        sync(temp)
        os.replace(temp, path)
        sync(os.path.dirname(path))
    finally:
        if os.path.lexists(temp):
            os.unlink(temp)


def sync(name):
    handle = os.open(name, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def verify_file(path):
    if open(path, "rb").read(2) != b"PK":
        raise CheckpointError(path)
    try:
        if zipfile.ZipFile(path).testzip():
            raise ValueError("checksum")
        torch.load(path, "cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: {error!r:.60}") from None
