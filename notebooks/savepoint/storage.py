"""Keep the right checkpoints on a disk that fills (notebook 06).

Three kinds of file, each for a question of its own: the *last* ones, to resume from; *periodic*
ones, to go back to; the *best* weights, to use. How large they are, how many are kept, and what
happens when the disk is full. The arithmetic is in ``storage_sizes``.
"""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from savepoint.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from savepoint.files import verify_file
from savepoint.storage_sizes import best_interval, checkpoint_nbytes, run_nbytes

__all__ = ["CheckpointManager", "best_interval", "checkpoint_nbytes", "run_nbytes"]

StrPath = str | PathLike[str]


class CheckpointManager:
    """The checkpoints of one run, in one directory: written safely, pruned, found again.

    Arguments:

    - ``directory``: made if it is not there, its parents too.
    - ``keep_last``: how many of the highest numbers to keep; 1 or more, so that there is always
      something to resume from.
    - ``keep_every``: besides these, keep each checkpoint whose number is a multiple of it (0 is
      a multiple of everything); ``keep_every=0`` keeps none.
    - ``mode``: ``"min"`` or ``"max"``, which metric is the better one; None for no best file.
    - ``mirror`` (further): an fsspec URL (``s3://bucket/run``, ``memory://run``, a path), a
      directory that ``save`` copies its files to.

    ``ValueError`` for any other ``keep_last``, ``keep_every`` or ``mode``. Making a manager
    opens, changes and deletes no file, and does not connect to the mirror.

    Files: ``step-<number>.pt`` is a full checkpoint, ``best-<number>.pt`` the best weights. The
    number may be zero-padded. Any other file in the directory is somebody else's: never read as
    a checkpoint, never deleted.

    Restart: a new manager on the same directory goes on where the last one stopped, with the
    same order, retention and best metric. Nothing is stored but the files themselves. One
    manager at a time uses a directory; it may remember what it has read and written.
    """

    def __init__(
        self,
        directory: StrPath,
        *,
        keep_last: int = 3,
        keep_every: int = 0,
        mode: str | None = "min",
        mirror: str | None = None,
    ) -> None:
        raise NotImplementedError("06_storage_blowup, task 2: check the arguments, make the directory")

    def save(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer,
        scheduler: LRScheduler | None,
        epoch: int,
        loss: float,
        step: int | None = None,
        metric: Any = None,
        **extra: Any,
    ) -> Path:
        """Write a full checkpoint, then delete those no longer kept. Returns its path.

        ``model``, ``optimizer``, ``scheduler``, ``epoch``, ``loss`` and ``extra`` are those of
        ``save_checkpoint``, and so is the file: ``load_checkpoint`` reads it.

        ``step`` is its number, an int from 0 up; ``epoch`` where it is None (0 is a number, not
        None). The number alone orders checkpoints: 10 comes after 9, whatever the names or times
        of the files say. Call with growing numbers; the same number again replaces that file.

        *Retention (task 2).* Write the new file beside the old ones, never in place; verify it
        (``verify_file``); only then delete. Kept are the ``keep_last`` highest numbers, sound or
        not, every multiple of ``keep_every``, and always the file just written, even if its
        number is low.

        *Best (task 3).* ``metric`` is a float, a NumPy scalar or a one-element tensor; None is
        not considered, nor is any with ``mode=None``. Strictly better than the best so far (the
        first finite one is; of a first infinite one nothing is promised), it writes
        ``best-<step>.pt``: just ``model_state_dict``, ``epoch``, ``step``, ``metric`` (a float),
        loadable by ``torch.load``'s default, verified before the old one goes. Then there is one
        best file. Ties keep the older. NaN is never best.

        *Failure.* A full disk, or a new file (full or best) that fails verification: ``OSError``
        or ``RuntimeError``. No partial or temporary file stays, every earlier file is as it was
        (one of this number too), ``last()`` and ``best()`` answer as before, and the next
        ``save`` works.

        *Mirror (further, no points).* Once the local files are safe, the new ones go to
        ``mirror``: see ``_copy_to_mirror``.

        Training does not notice: no generator moves, no mode, gradient or weight changes.
        """
        raise NotImplementedError("06_storage_blowup, task 2: write, verify, and only then delete")

    def _copy_to_mirror(self, files: Iterable[Path]) -> None:
        """Copy files to the mirror, under the same names. Further (no points); ``save`` calls it.

        Returns when every copy was tried. The mirror only gains files: deleting from a backup is
        the store's job. Whatever the mirror raises, ``save`` does not: ``warnings.warn`` names the
        file and the cause. As long as the local file exists, this manager tries it again at its
        next ``save`` (a new manager need not know of it). The helper is a suggestion: only what
        ``save`` does is checked.
        """
        raise NotImplementedError("06_storage_blowup, further: copy, warn, try again")

    def last(self) -> Path | None:
        """The full checkpoint with the highest number, sound or not; None when there is none."""
        raise NotImplementedError("06_storage_blowup, task 2: the highest number")

    def best(self) -> Path | None:
        """The best-weights file; None when there is none, and with ``mode=None``.

        Of two (the last run was killed between write and delete) the better counts. A damaged one
        is named in a ``warnings.warn`` and counts as none: the next finite metric is the best. It
        may be deleted once there is another, or stay.
        """
        raise NotImplementedError("06_storage_blowup, task 3: the best file, from what is on disk")

    def load_latest(
        self,
        *,
        model: nn.Module,
        optimizer: Optimizer | None = None,
        scheduler: LRScheduler | None = None,
        map_location: Any = "cpu",
        **extra: Any,
    ) -> dict[str, Any] | None:
        """Restore the newest sound full checkpoint. The arguments are ``load_checkpoint``'s.

        Tries the highest number first; each file is verified (``verify_file``) before any of it
        is loaded. Returns ``load_checkpoint``'s dict plus ``"path"``, the file that was loaded.

        - A damaged file is skipped, stays on disk, and is named in a ``warnings.warn``.
        - No full checkpoint at all: None, a fresh start, and nothing has been touched.
        - Some, and all damaged: ``CheckpointError``, never a silent fresh start.
        - A sound file that lacks a part asked for, or does not fit the model: the error of
          ``load_checkpoint``. It is not skipped: an older file would lack it too.
        """
        raise NotImplementedError("06_storage_blowup, task 2: the newest that is sound")
