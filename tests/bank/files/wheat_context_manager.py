"""Wheat: class-based; random names (mkstemp), and a clean-up of what a killed save left."""

import contextlib
import glob
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import torch
from savepoint.checkpoint import CheckpointError


class Replacement:
    """A binary file that takes the target's place when the block ends well."""

    def __init__(self, path):
        self.target = Path(os.path.realpath(path))
        self.marker = f".{self.target.name}.saving-"

    def stale(self):
        return self.target.parent.glob(glob.escape(self.marker) + "*.tmp")

    def __enter__(self):
        handle, name = tempfile.mkstemp(".tmp", self.marker, self.target.parent)
        self.temp = Path(name)
        self.file = open(handle, "wb")
        return self.file

    def __exit__(self, kind, error, trace):
        try:
            if kind is None:
                self.commit()
        finally:
            with contextlib.suppress(OSError):
                self.file.close()
            self.temp.unlink(missing_ok=True)
        return False

    def commit(self):
        self.file.flush()
        if self.target.exists():
            shutil.copymode(self.target, self.temp)
        else:
            umask = os.umask(0o022)
            os.umask(umask)
            self.temp.chmod(0o666 & ~umask)
        os.fsync(self.file.fileno())
        self.file.close()
        os.replace(self.temp, self.target)
        for leftover in self.stale():
            leftover.unlink()
        directory = os.open(self.target.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def atomic_save(obj, path):
    with Replacement(path) as file:
        torch.save(obj, file)


class DamagedFile(CheckpointError):
    pass


def verify_file(path):
    path = Path(path)
    if path.stat().st_size == 0:
        raise DamagedFile(f"{path} is empty")
    if not zipfile.is_zipfile(path):
        raise DamagedFile(f"{path} is no zip archive")
    try:
        with zipfile.ZipFile(path) as archive:
            for record in archive.infolist():
                archive.read(record)
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DamagedFile(f"{path}: {type(error).__name__}") from None
