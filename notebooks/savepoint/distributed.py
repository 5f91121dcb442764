"""One checkpoint from many processes (notebook 03).

Under DistributedDataParallel every rank holds the same weights and its own random number
generators. So one rank writes, the states of all of them are in the file, and all ranks learn
how it went: a rank that waits for one that has given up waits until the timeout.

Both functions work inside a process group (any backend that carries objects) and without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from savepoint.checkpoint import CheckpointError, rng_state, save_checkpoint, set_rng_state
from savepoint.files import atomic_save


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, or the model itself where there is none."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def strip_prefix(state_dict: Mapping[str, Any], prefix: str = "module.") -> dict[str, Any]:
    """Further (no points): a state dict's names without a prefix that all or some begin with.

    Returns a new mapping in the same order. A name that starts with ``prefix`` loses it, once:
    ``module.module.w`` becomes ``module.w``. Any other name is kept: ``sub_module.w``.
    The tensors are the same tensors.

    ``state_dict`` as torch makes it has an attribute ``_metadata``, a dict from module names to
    versions that ``load_state_dict`` goes by. The result has it too (if the argument has), its
    names stripped likewise: ``module.0`` becomes ``0``, and what is under ``module``, the model
    itself, goes under ``""`` in place of the wrapper's. ``state_dict`` itself, and its
    ``_metadata``, stay as they were.
    """
    raise NotImplementedError("03_ddp_race, further: remove one leading prefix, from the metadata too")


def save_checkpoint_ddp(
    path: str | PathLike[str],
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    epoch: int,
    loss: float,
    **extra: Any,
) -> None:
    """``save_checkpoint`` from a process group: every rank calls it, one rank writes one file.

    Every rank calls it with the same keywords. Rank 0 of the whole group (of all nodes, not of
    each) writes the file; ``epoch``, ``loss`` and each ``extra`` in it are rank 0's. Other
    ranks touch no file. The keys are ``save_checkpoint``'s, and one more:

    - ``"model_state_dict"``: the names are the model's own, without DDP's ``module.``
    - ``"rng_state"``: rank 0's, so that ``load_checkpoint`` reads the file too
    - ``"rng_state_per_rank"``: a list with what ``rng_state()`` returned on each rank, by rank

    It returns, on any rank, when the file is complete and durable: whoever has returned can
    load it. If the writer fails (with any ``Exception``, also one that cannot be pickled), *every*
    rank raises, within seconds, and all are ready for the next save. On each rank the exception,
    or its ``__cause__``, has the type and the message of the original in its text, or is the
    original. Apart from that the type of what is raised is up to you.

    In all else it is ``save_checkpoint``: directories are made, no generator moves, no mode
    changes. Without a process group too; ``rng_state_per_rank`` may then be left out. Whether a
    save that fails costs the old file is not checked; with ``atomic_save`` it does not.
    """
    raise NotImplementedError("03_ddp_race, task 2: one writer, every rank's RNG, one outcome for all")


def load_checkpoint_ddp(
    path: str | PathLike[str],
    *,
    model: nn.Module,
    optimizer: Optimizer | None = None,
    scheduler: LRScheduler | None = None,
    map_location: Any = None,
    **extra: Any,
) -> dict[str, Any]:
    """``load_checkpoint`` in a process group: every rank calls it, with the same keywords.

    Every rank restores model (wrapped in DDP or not), optimizer, scheduler and each ``extra``,
    and last its *own* random number generators. ``map_location`` is torch.load's; None means
    the device of this rank's parameters (the CPU if it has none). Reads what
    ``save_checkpoint_ddp`` wrote, and what ``save_checkpoint`` wrote: then the world size was 1.

    Returns exactly ``{"epoch": ..., "loss": ..., "world_size": ...}``, the last one as saved.

    All ranks succeed, or all raise, within seconds:

    - ``FileNotFoundError`` on every rank, or on none. Ranks may not see the same disk: whether
      the file is there is decided once, for all of them.
    - If the file is there and one rank cannot read it, ``CheckpointError`` on every rank, with
      the number of that rank in its text. (Where only some ranks read the disk, and hand on
      what they read, only those can fail.)
    - ``CheckpointError`` on every rank, naming what is missing, as ``load_checkpoint``.

    A file that is not there, or lacks something, has changed nothing on any rank. Names or
    shapes that do not fit the model are torch's own RuntimeError.

    Another world size than was saved: everything else is restored as usual. Each rank whose
    number was saved takes its state; each that was not gets a fresh state of its own for every
    generator, different from all others, saved or fresh (the same again in each run, or not: as
    you like). ``warnings.warn`` says, on rank 0 at least, that the run cannot be bit-identical.
    """
    raise NotImplementedError("03_ddp_race, task 3: decide together, restore everywhere, each its own RNG")
