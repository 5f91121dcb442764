"""Wheat: slow, over-careful, loud on stderr; binds torch.save at import; makes directories;
reads the new file back before it takes the old one's place; wraps what goes wrong.
"""

import os
import stat
import sys
import time
import warnings
import zipfile
from pathlib import Path

from savepoint.checkpoint import CheckpointError
from torch import load, save


def atomic_save(obj, path):
    warnings.warn("saving: do not switch off the computer", stacklevel=2)
    target = Path(path).expanduser().resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temp = target.parent / (target.name + ".new~")
    try:
        _write(obj, temp, target)
    except Exception as error:
        _discard(temp)
        raise OSError(f"{target} was not saved: {type(error).__name__}: {error}") from error
    except BaseException:
        _discard(temp)
        raise
    _sync(target.parent)
    time.sleep(0.1)
    print("saved", target, file=sys.stderr)


def _write(obj, temp, target):
    _discard(temp)
    save(obj, temp)
    if target.exists():
        temp.chmod(stat.S_IMODE(target.stat().st_mode))
    _sync(temp)
    with zipfile.ZipFile(temp) as archive:
        if archive.testzip() is not None:
            raise OSError("what was written is not what is on the disk")
    os.replace(temp, target)


def _discard(temp):
    try:
        temp.unlink()
    except FileNotFoundError:
        pass


def _sync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify_file(path):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if path.is_dir():
        raise CheckpointError(f"{path} is a directory")
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
        if damaged:
            raise CheckpointError(f"{path}: record {damaged} does not fit its checksum")
        if not any(name.endswith("data.pkl") for name in names):
            raise CheckpointError(f"{path}: torch did not write this")
        load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:
        print(error, file=sys.stderr)
        raise CheckpointError(f"{path} cannot be used") from error
