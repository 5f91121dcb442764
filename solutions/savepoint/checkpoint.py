"""Save and load everything that a training run consists of (notebook 01).

A run is more than its weights. Leave one component out and the resumed run is another run:
model, optimizer, scheduler, epoch, loss, and four random number generators.
"""

from __future__ import annotations

import random
import warnings
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

StrPath = str | PathLike[str]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used: it is incomplete, damaged, or not a checkpoint at all."""


def rng_state() -> dict[str, Any]:
    """The state of every global random number generator, now.

    Returns a dict:

    - ``"python"``: ``random.getstate()``
    - ``"numpy"``: ``(name, keys, pos, has_gauss, cached_gaussian)`` of NumPy's legacy global
      generator, the values of ``np.random.get_state()`` with ``keys`` as an int64 tensor of
      shape (624,). (A NumPy array would make the file unloadable by ``torch.load``'s default;
      a uint32 tensor cannot be pickled.)
    - ``"torch"``: the CPU generator's state, a uint8 tensor
    - ``"cuda"``: a list with one uint8 tensor for each visible CUDA device, empty without CUDA
    - ``"mps"``: that generator's state, where there is an MPS device; otherwise absent

    The result is a snapshot: generators that move on later do not change it. It holds only
    what ``torch.load`` accepts by default (``weights_only=True``). Draws nothing.
    """
    ### BEGIN SOLUTION: 01_lr_reset, task 1: collect the state of the four generators
    name, keys, pos, has_gauss, cached_gaussian = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), pos, has_gauss, cached_gaussian),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state
    ### END SOLUTION


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every generator back to where ``rng_state()`` found it, exactly.

    After it each generator draws what it drew after ``rng_state()`` was called, NumPy's cached
    Gaussian included. ``state`` is not changed, and may be used again. It may have been through
    a file, and been loaded with any ``map_location``: its tensors may be on another device.

    With fewer or more CUDA devices than the state holds, those that are there are restored and
    ``warnings.warn`` says so.
    """
    ### BEGIN SOLUTION: 01_lr_reset, task 1: put the four generators back, exactly
    random.setstate(state["python"])
    name, keys, pos, has_gauss, cached_gaussian = state["numpy"]
    np.random.set_state(
        (name, keys.cpu().numpy().astype(np.uint32), pos, has_gauss, cached_gaussian)
    )
    torch.set_rng_state(state["torch"].cpu())
    saved, present = len(state["cuda"]), torch.cuda.device_count()
    for device in range(min(saved, present)):
        torch.cuda.set_rng_state(state["cuda"][device].cpu(), device)
    if saved != present:
        warnings.warn(
            f"RNG states of {saved} CUDA devices were saved and {present} are here: "
            f"restored {min(saved, present)}. The run will not be bit-identical.",
            stacklevel=2,
        )
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu())
    ### END SOLUTION


def save_checkpoint(
    path: StrPath,
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    epoch: int,
    loss: float,
    **extra: Any,
) -> None:
    """Write everything that the run consists of to one file.

    Arguments: ``epoch`` is the 0-based index of the last *completed* epoch. ``loss`` is a float.
    Each ``extra`` is anything with ``state_dict()`` (GradScaler, EMA, a sampler), or None.

    The file is ``torch.save`` of a dict that ``torch.load(path)`` opens by default, with the keys

    - ``"epoch"``, ``"loss"`` (a Python float)
    - ``"model_state_dict"``, ``"optimizer_state_dict"``
    - ``"scheduler_state_dict"``: None where ``scheduler`` is None
    - ``"rng_state"``: what ``rng_state()`` returns
    - ``"<name>_state_dict"`` for each ``extra``; an extra that is None is left out

    It may hold more: from notebook 05 on ``"format_version"`` and ``"environment"``. Missing
    parent directories are made. Nothing but the file is left behind. From notebook 03 on, write
    it through ``atomic_save``, and a kill in the middle of a save costs nothing.
    Saving is invisible to training: no generator moves, no mode, gradient or weight changes.

    Further (no points): after writing, read the file back, and raise ``CheckpointError`` if it
    cannot be read, or if one of the keys above is absent or None. 0, 0.0 and ``{}`` are values,
    not gaps, and a scheduler that was None is no gap either.
    """
    ### BEGIN SOLUTION: 01_lr_reset, task 2: write the nine components to one file
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    states = {
        f"{name}_state_dict": part.state_dict() for name, part in parts.items() if part is not None
    }
    checkpoint = {"epoch": epoch, "loss": float(loss), "rng_state": rng_state(), **states}
    required = set(checkpoint)
    checkpoint = {"scheduler_state_dict": None, **_stamp(), **checkpoint}

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(checkpoint, path)

    try:
        written = torch.load(path, map_location="cpu")
    except Exception as error:
        raise CheckpointError(f"{path} was written and cannot be read back: {error}") from error
    _require(written, required, path)
    ### END SOLUTION


def load_checkpoint(
    path: StrPath,
    *,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    map_location: Any = "cpu",
    **extra: Any,
) -> dict[str, Any]:
    """Restore everything given from a file that ``save_checkpoint`` wrote, in place.

    Whatever is passed is restored: the model always; optimizer, scheduler and each ``extra``
    (anything with ``load_state_dict()``) where they are not None; the random number generators
    always, and last, so that nothing that draws while loading can disturb them. Objects stay the
    same objects: the optimizer goes on updating this model's parameters. The model's train/eval
    mode stays as it was. ``map_location`` is handed to ``torch.load``.

    Returns exactly ``{"epoch": ..., "loss": ...}``, the loss equal to the one saved, to the bit.

    Raises ``FileNotFoundError`` if there is no such file, and ``CheckpointError`` naming what is
    missing if the file lacks ``epoch``, ``loss``, ``rng_state`` or a part that was asked for
    (a scheduler saved as None is missing when a scheduler is given). Then nothing has been
    changed. Names or shapes that do not fit the model are torch's own RuntimeError.
    """
    ### BEGIN SOLUTION: 01_lr_reset, task 3: restore what was saved, the generators last
    checkpoint = torch.load(path, map_location=map_location)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {name: part for name, part in parts.items() if part is not None}
    _require(checkpoint, {"epoch", "loss", "rng_state"} | {f"{n}_state_dict" for n in parts}, path)

    for name, part in parts.items():
        part.load_state_dict(checkpoint[f"{name}_state_dict"])
    set_rng_state(checkpoint["rng_state"])
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"]}
    ### END SOLUTION


### BEGIN SOLUTION: helpers
# Later notebooks' modules need this one, so they are imported when they are used; and a package
# that has none of them yet, or this file alone, still saves.
def _write(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the file, in one step where notebook 03 is done."""
    try:
        from savepoint.files import atomic_save

        atomic_save(checkpoint, path)
    except (ImportError, NotImplementedError):
        torch.save(checkpoint, path)


def _stamp() -> dict[str, Any]:
    """What notebook 05 adds: which format this is, and where it was written."""
    try:
        from savepoint.compat import FORMAT_VERSION, environment
    except ImportError:
        return {}
    return {"format_version": FORMAT_VERSION, "environment": environment()}


def _require(checkpoint: Any, keys: set[str], path: StrPath) -> None:
    """Raise CheckpointError naming every key that is absent or None."""
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, not a checkpoint")
    missing = sorted(key for key in keys if checkpoint.get(key) is None)
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(missing)}")


### END SOLUTION
