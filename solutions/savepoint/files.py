"""Files that are whole, or not there (notebook 03).

Writing a checkpoint takes time, and a job can be killed at any instant of it. At each of them,
what is on the disk must be a checkpoint that loads.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch

from savepoint.checkpoint import CheckpointError

### BEGIN SOLUTION: imports
# isort: split
import os
import shutil
import zipfile
from pathlib import Path

### END SOLUTION


def atomic_save(obj: Any, path: str | PathLike[str]) -> None:
    """Save ``obj`` as ``torch.save`` would, so that ``path`` is never half written.

    - Killed at any instant (SIGKILL), ``path`` is the old file or the new one, whole. It is never
      absent, short, or a mixture. After a first save that was killed it may be absent.
    - An exception while saving (KeyboardInterrupt too) reaches the caller, as it is or as the
      cause of another. The old file stays as it was, and no temporary file is left.
    - A kill may leave a temporary file behind. The next save to ``path`` that succeeds leaves
      none, whatever the killed one left. Files that are not yours are left alone (but for one
      that is named just as a temporary file of yours would be), and saves to *different* paths
      in one directory may run at the same time: model.pt and model.best, say. One writer at a
      time for each path is the caller's duty.
    - Permissions: a new file gets those that any new file gets under the process's umask; an
      existing file keeps the ones it has. The umask itself stays as it was.
    - If ``path`` is a symbolic link to a file, the link stays and that file is replaced.
    - When it returns, the file and its directory entry are on the disk (fsync), where the
      platform can do that.

    The directory has to exist; whether a missing one is made or is an error is up to you.
    """
    ### BEGIN SOLUTION: 03_ddp_race, task 1: write beside the target, then replace it in one step
    target = Path(path).resolve()
    if target.exists() and not target.is_file():
        raise OSError(f"{target} is not a regular file: it will not be replaced")
    temp = target.with_name(f"{target.name}.tmp")
    try:
        temp.unlink(missing_ok=True)  # left by a killed save, with whatever permissions
        with temp.open("xb") as file:
            if target.exists():
                shutil.copymode(target, temp)  # before there is anything to read in it
            torch.save(obj, file)
            file.flush()
            os.fsync(file.fileno())
        temp.replace(target)
    finally:
        temp.unlink(missing_ok=True)
    _fsync_directory(target.parent)
    ### END SOLUTION


def verify_file(path: str | PathLike[str]) -> None:
    """Further (no points): is this file what ``torch.save`` wrote, undamaged and safe to open?

    Returns None if it is. Raises ``CheckpointError`` for

    - an empty or truncated file
    - a flipped bit in any record stored in it, a tensor's or another
    - a file that is not in torch's zip format: something else altogether, an ordinary zip file,
      or what ``torch.save`` wrote before torch 1.6
    - a file that ``torch.load`` does not open under ``weights_only=True``. Nothing in it is run.

    A file that is not there is a ``FileNotFoundError``; one that may not be opened, or that is
    a directory, is an ``OSError`` or a ``CheckpointError``. The file is only read.
    """
    ### BEGIN SOLUTION: 03_ddp_race, further: find damage that torch.load does not look for
    with Path(path).open("rb") as file:
        if file.read(4) != b"PK\x03\x04":
            raise CheckpointError(f"{path} is empty, or not in torch's zip format")
        try:
            # torch.load compares no checksums, and what it says of a damaged file can be advice
            # to open it unsafely.
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except Exception as error:
            raise CheckpointError(f"{path} is truncated or damaged: {error}") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {damaged} does not fit")
    try:
        # mmap: the checksums have just read every tensor, and a second copy needs no memory.
        torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} does not open under weights_only ({type(error).__name__})"
        ) from None
    ### END SOLUTION


### BEGIN SOLUTION: helpers
def _fsync_directory(directory: Path) -> None:
    if os.name == "nt":  # Windows has no handle of a directory to sync
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


### END SOLUTION
