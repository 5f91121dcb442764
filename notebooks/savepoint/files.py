"""Files that are whole, or not there (notebook 03).

Writing a checkpoint takes time, and a job can be killed at any instant of it. At each of them,
what is on the disk must be a checkpoint that loads.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch

from savepoint.checkpoint import CheckpointError


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
    raise NotImplementedError("03_ddp_race, task 1: write beside the target, then replace it in one step")


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
    raise NotImplementedError("03_ddp_race, further: find damage that torch.load does not look for")
