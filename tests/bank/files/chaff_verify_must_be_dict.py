"""Wrong: refuses a sound file that holds anything but a dict, though atomic_save writes any object; "returns None" for a file that is not one of those listed."""

import os
import zipfile

import torch
from savepoint.checkpoint import CheckpointError


def atomic_save(obj, path):
    """Write `obj` as torch.save would; the file at `path` is always the old one or the new one."""
    target = os.path.realpath(os.fspath(path))
    folder, name = os.path.split(target)
    temp = os.path.join(folder, f".{name}.saving.tmp")
    try:
        mode = os.stat(target).st_mode & 0o7777
    except FileNotFoundError:
        mode = None
    try:
        if os.path.lexists(temp):
            os.unlink(temp)
        with open(temp, "xb") as f:
            torch.save(obj, f)
            f.flush()
            if mode is not None:
                os.fchmod(f.fileno(), mode)
            os.fsync(f.fileno())
        os.replace(temp, target)
    except BaseException:
        try:
            os.unlink(temp)
        except FileNotFoundError:
            pass
        raise
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def verify_file(path):
    """None, or CheckpointError: damaged, not torch's zip format, or not readable under weights_only."""
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    try:
        with open(path, "rb") as f:
            magic = f.read(4)
        if magic != b"PK\x03\x04":
            raise ValueError("does not start like torch's zip format")
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
        if bad is not None:
            raise ValueError(f"record {bad} does not match its checksum")
        if not isinstance(torch.load(path, map_location="cpu", weights_only=True), dict):
            raise TypeError("a checkpoint is a dict")
    except Exception as error:
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({type(error).__name__})") from None
