"""Wrong: takes the careful way only where there is an old file: a kill during the first save leaves half a file under the final name; "a kill at any instant leaves the old file or the new one, whole"."""

import contextlib
import os
import zipfile
from pathlib import Path

import torch
from savepoint.checkpoint import CheckpointError


@contextlib.contextmanager
def _open_fd(path, flags):
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _temporary(path):
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)     # after the replace there is nothing to remove


def atomic_save(obj, path):
    target = Path(path).resolve()
    if not target.exists():
        torch.save(obj, target)
        for name in (target, target.parent):
            with _open_fd(name, os.O_RDONLY) as fd:
                os.fsync(fd)
        return
    with _temporary(target.with_name(f"{target.name}.atomic-tmp")) as temp:
        torch.save(obj, temp)
        if target.exists():
            temp.chmod(target.stat().st_mode & 0o7777)
        with _open_fd(temp, os.O_RDONLY) as fd:
            os.fsync(fd)
        temp.replace(target)
    with _open_fd(target.parent, os.O_RDONLY) as fd:
        os.fsync(fd)


def _records_are_whole(path):
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


def verify_file(path):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such checkpoint: {path}")
    checks = {
        "it is empty": lambda: path.stat().st_size > 0,
        "it is not in torch's zip format": lambda: path.open("rb").read(4) == b"PK\x03\x04",
        "it is truncated or a record is damaged": lambda: _records_are_whole(path),
        "torch.load refuses it": lambda: (torch.load(path, map_location="cpu", weights_only=True), True)[1],
    }
    for complaint, check in checks.items():
        try:
            fine = check()
        except Exception:
            fine = False
        if not fine:
            raise CheckpointError(f"{path}: {complaint}")
