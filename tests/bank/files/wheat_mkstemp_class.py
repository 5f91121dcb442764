"""Right. A writer class over tempfile.mkstemp, with a clean-up of what killed saves of this path left."""

import glob
import os
import tempfile
import zipfile

import torch
from savepoint.checkpoint import CheckpointError


def _current_umask():
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


class _AtomicFile:
    """with _AtomicFile(path) as f: f.write(...)   The name changes hands at the end, or not at all."""

    def __init__(self, path):
        self.target = os.path.realpath(path)
        self.folder = os.path.dirname(self.target)
        self.prefix = "." + os.path.basename(self.target) + ".partial-"

    def __enter__(self):
        for stale in glob.glob(glob.escape(os.path.join(self.folder, self.prefix)) + "????????"):
            os.unlink(stale)
        fd, self.temp = tempfile.mkstemp(prefix=self.prefix, dir=self.folder)
        try:
            self.file = os.fdopen(fd, "wb")
        except BaseException:
            os.close(fd)
            os.unlink(self.temp)
            raise
        return self.file

    def __exit__(self, kind, value, traceback):
        try:
            if kind is None:
                self._commit()
        finally:
            self.file.close()
            if os.path.lexists(self.temp):
                os.unlink(self.temp)
        return False

    def _commit(self):
        try:
            mode = os.stat(self.target).st_mode & 0o7777
        except FileNotFoundError:
            mode = 0o666 & ~_current_umask()
        self.file.flush()
        os.fchmod(self.file.fileno(), mode)
        os.fsync(self.file.fileno())
        os.replace(self.temp, self.target)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def atomic_save(obj, path):
    with _AtomicFile(os.fspath(path)) as f:
        torch.save(obj, f)


def verify_file(path):
    path = os.fspath(path)
    os.stat(path)

    def fail(why):
        raise CheckpointError(f"{path}: {why}")

    try:
        archive = zipfile.ZipFile(path)
    except Exception as e:
        fail(f"not a complete zip file ({e})")
    with archive:
        try:
            damaged = archive.testzip()
        except Exception as e:
            fail(f"a record cannot be read ({type(e).__name__})")
        if damaged:
            fail(f"checksum of {damaged} does not match")
        names = archive.namelist()
    if not any(n.endswith("/data.pkl") for n in names):
        fail("a zip file, but not torch.save's")
    with open(path, "rb") as f:
        if f.read(2) != b"PK":
            fail("something stands before the zip file")
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as e:
        raise CheckpointError(f"{path}: does not open under weights_only ({type(e).__name__})") from None
