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
    raise NotImplementedError("01_lr_reset, task 1: collect the state of the four generators")


def set_rng_state(state: dict[str, Any]) -> None:
    """Put every generator back to where ``rng_state()`` found it, exactly.

    After it each generator draws what it drew after ``rng_state()`` was called, NumPy's cached
    Gaussian included. ``state`` is not changed, and may be used again. It may have been through
    a file, and been loaded with any ``map_location``: its tensors may be on another device.

    With fewer or more CUDA devices than the state holds, those that are there are restored and
    ``warnings.warn`` says so.
    """
    raise NotImplementedError("01_lr_reset, task 1: put the four generators back, exactly")


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
    raise NotImplementedError("01_lr_reset, task 2: write the nine components to one file")


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
    raise NotImplementedError("01_lr_reset, task 3: restore what was saved, the generators last")
