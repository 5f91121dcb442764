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
        ### BEGIN SOLUTION: 06_storage_blowup, task 2: check the arguments, make the directory
        if keep_last < 1:
            raise ValueError(f"keep_last must be 1 or more, not {keep_last}")
        if keep_every < 0:
            raise ValueError(f"keep_every must be 0 or more, not {keep_every}")
        if mode not in ("min", "max", None):
            raise ValueError(f'mode must be "min", "max" or None, not {mode!r}')
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.keep_last, self.keep_every = keep_last, keep_every
        self.mode, self.mirror = mode, mirror
        self._not_mirrored: set[Path] = set()
        ### END SOLUTION

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
        ### BEGIN SOLUTION: 06_storage_blowup, task 2: write, verify, and only then delete
        step = int(epoch if step is None else step)
        full, full_temp = self.directory / f"step-{step}.pt", self.directory / "savepoint-full.tmp"
        best, best_temp = self.directory / f"best-{step}.pt", self.directory / "savepoint-best.tmp"
        new_best = considered = self.mode is not None and metric is not None
        if considered:
            metric = float(metric.item() if hasattr(metric, "item") else metric)
            old_metric, old_best = _read_best(self.directory, self.mode)
            new_best = _better(metric, old_metric, self.mode)

        try:
            # What a killed save left would take the room that this one needs.
            full_temp.unlink(missing_ok=True)
            best_temp.unlink(missing_ok=True)
            # Both files are safe before either gets its name: a save succeeds or fails as a whole.
            save_checkpoint(
                full_temp,
                model=model,
                optimizer=optimizer,
                scheduler=scheduler,
                epoch=epoch,
                loss=loss,
                **extra,
            )
            _verify_and_sync(full_temp)
            if new_best:
                weights = {"model_state_dict": model.state_dict(), "epoch": int(epoch)}
                torch.save({**weights, "step": step, "metric": metric}, best_temp)
                _verify_and_sync(best_temp)
                # First: killed between the two, the run repeats this step and loses nothing.
                best_temp.replace(best)
            full_temp.replace(full)
        finally:
            full_temp.unlink(missing_ok=True)
            best_temp.unlink(missing_ok=True)
        _sync_directory(self.directory)

        checkpoints = _numbered(self.directory, "step")
        recent = sorted({number for number, _ in checkpoints})[-self.keep_last :]
        for number, path in checkpoints:
            kept = number in recent or _periodic(number, self.keep_every)
            # The second clause: the same number under another padding has been replaced.
            if path != full and (not kept or number == step):
                path.unlink(missing_ok=True)
        the_best = best if new_best else old_best if considered else None
        for _, path in _numbered(self.directory, "best"):
            if the_best is not None and path != the_best:
                path.unlink(missing_ok=True)

        if self.mirror is not None:
            self._copy_to_mirror([full, best] if new_best else [full])
        return full
        ### END SOLUTION

    def _copy_to_mirror(self, files: Iterable[Path]) -> None:
        """Copy files to the mirror, under the same names. Further (no points); ``save`` calls it.

        Returns when every copy was tried. The mirror only gains files: deleting from a backup is
        the store's job. Whatever the mirror raises, ``save`` does not: ``warnings.warn`` names the
        file and the cause. As long as the local file exists, this manager tries it again at its
        next ``save`` (a new manager need not know of it). The helper is a suggestion: only what
        ``save`` does is checked.
        """
        ### BEGIN SOLUTION: 06_storage_blowup, further: copy, warn, try again
        self._not_mirrored.update(files)
        for path in sorted(filter(Path.exists, self._not_mirrored)):
            try:
                import fsspec  # only a run with a mirror needs it

                store, root = fsspec.core.url_to_fs(self.mirror)
                store.makedirs(root, exist_ok=True)
                store.put_file(str(path), f"{root.rstrip('/')}/{path.name}")
                self._not_mirrored.discard(path)
            except Exception as error:
                # Not the URL: it may hold a password.
                warnings.warn(
                    f"{path.name} did not reach the mirror and will be tried again at the next "
                    f"save: {type(error).__name__}: {error}",
                    stacklevel=3,
                )
        ### END SOLUTION

    def last(self) -> Path | None:
        """The full checkpoint with the highest number, sound or not; None when there is none."""
        ### BEGIN SOLUTION: 06_storage_blowup, task 2: the highest number
        checkpoints = _numbered(self.directory, "step")
        return checkpoints[-1][1] if checkpoints else None
        ### END SOLUTION

    def best(self) -> Path | None:
        """The best-weights file; None when there is none, and with ``mode=None``.

        Of two (the last run was killed between write and delete) the better counts. A damaged one
        is named in a ``warnings.warn`` and counts as none: the next finite metric is the best. It
        may be deleted once there is another, or stay.
        """
        ### BEGIN SOLUTION: 06_storage_blowup, task 3: the best file, from what is on disk
        return None if self.mode is None else _read_best(self.directory, self.mode)[1]
        ### END SOLUTION

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
        ### BEGIN SOLUTION: 06_storage_blowup, task 2: the newest that is sound
        checkpoints = _numbered(self.directory, "step")
        for _, path in reversed(checkpoints):
            try:
                verify_file(path)
            except CheckpointError as error:
                warnings.warn(f"skipped a damaged checkpoint, {path}: {error}", stacklevel=2)
                continue
            parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
            return {**load_checkpoint(path, map_location=map_location, **parts), "path": path}
        if checkpoints:
            raise CheckpointError(f"all {len(checkpoints)} files in {self.directory} are damaged")
        return None
        ### END SOLUTION


### BEGIN SOLUTION: helpers
def _numbered(directory: Path, kind: str) -> list[tuple[int, Path]]:
    """Our files of one kind, in the order of their numbers."""
    matches = (
        (re.fullmatch(kind + r"-(-?[0-9]+)\.pt", path.name), path) for path in directory.iterdir()
    )
    return sorted((int(match[1]), path) for match, path in matches if match and path.is_file())


def _better(metric: float, than: float | None, mode: str) -> bool:
    if than is None:
        return not math.isnan(metric)
    return metric < than if mode == "min" else metric > than


def _read_best(directory: Path, mode: str) -> tuple[float | None, Path | None]:
    """The best metric on disk and its file; of equal ones, the older."""
    best: tuple[float | None, Path | None] = (None, None)
    for _, path in _numbered(directory, "best"):
        try:
            verify_file(path)
            metric = float(torch.load(path, map_location="cpu")["metric"])
        except (CheckpointError, LookupError, TypeError) as error:
            warnings.warn(f"best file {path} is damaged: {error}", stacklevel=3)
            continue
        if _better(metric, best[0], mode):
            best = (metric, path)
    return best


def _periodic(number: int, keep_every: int) -> bool:
    return keep_every > 0 and number % keep_every == 0


def _verify_and_sync(path: Path) -> None:
    verify_file(path)
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    if os.name == "nt":  # Windows has no handle of a directory to sync
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


### END SOLUTION
