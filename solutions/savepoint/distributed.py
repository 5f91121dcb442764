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

### BEGIN SOLUTION: imports
# isort: split
import errno
import hashlib
import os
import random
import warnings
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from savepoint.compat import FORMAT_VERSION, environment
from savepoint.files import verify_file

### END SOLUTION


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
    ### BEGIN SOLUTION: 03_ddp_race, further: remove one leading prefix, from the metadata too
    stripped = OrderedDict((name.removeprefix(prefix), t) for name, t in state_dict.items())
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        # A module's name has no final dot, the prefix has one. "" (the wrapper) comes first in
        # metadata, so the model's own entry takes its place.
        names = {name: f"{name}.".removeprefix(prefix).removesuffix(".") for name in metadata}
        stripped._metadata = OrderedDict((names[name], v) for name, v in metadata.items())
    return stripped
    ### END SOLUTION


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
    ### BEGIN SOLUTION: 03_ddp_race, task 2: one writer, every rank's RNG, one outcome for all
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {name: unwrap(part) for name, part in parts.items()}
    if not _in_group():
        save_checkpoint(path, epoch=epoch, loss=loss, **parts)
        return

    rng_per_rank = _all_ranks(rng_state(), model)
    error = None
    if dist.get_rank() == 0:
        try:
            _write(path, parts, epoch, loss, rng_per_rank)
        except BaseException as caught:  # whatever it is: the others are waiting to hear of it
            error = caught
    # As text: not every exception survives pickling. This is also the barrier: no rank passes
    # it before rank 0 has written.
    failure = _all_ranks(None if error is None else _text(error), model)[0]
    if error is not None and not isinstance(error, Exception):
        raise error  # KeyboardInterrupt stays what it is
    if failure is not None:
        raise CheckpointError(f"rank 0 could not save {path}: {failure}") from error
    ### END SOLUTION


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
    ### BEGIN SOLUTION: 03_ddp_race, task 3: decide together, restore everywhere, each its own RNG
    if _all_ranks(_is_missing(path), model)[0]:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))

    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {name: unwrap(part) for name, part in parts.items() if part is not None}
    checkpoint, failure = {}, None
    try:
        device = _device(model) if map_location is None else map_location
        checkpoint = torch.load(path, map_location=device)
        _require(checkpoint, ["epoch", "loss", "rng_state", *(f"{n}_state_dict" for n in parts)])
    except Exception as error:
        # The first line: torch's go on with advice to load the file unsafely.
        failure = _text(error).partition("\n")[0]
    failures = [f"rank {r}: {f}" for r, f in enumerate(_all_ranks(failure, model)) if f]
    if failures:
        raise CheckpointError(f"{path} cannot be used. {'; '.join(failures)}")

    for name, part in parts.items():
        part.load_state_dict(checkpoint[f"{name}_state_dict"])
    states = checkpoint.get("rng_state_per_rank") or [checkpoint["rng_state"]]
    _restore_rng(states)
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"], "world_size": len(states)}
    ### END SOLUTION


### BEGIN SOLUTION: helpers
def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _all_ranks(value: Any, model: nn.Module) -> list[Any]:
    """What each rank passed, by rank, on every rank. Nobody returns before all have called."""
    if not _in_group():
        return [value]
    # NCCL sends objects through the *current* GPU, which a script that never called
    # torch.cuda.set_device has left at 0 on every rank.
    device = _device(model)
    values = [None] * dist.get_world_size()
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        dist.all_gather_object(values, value)
    return values


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _require(checkpoint: Any, keys: list[str]) -> None:
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"it holds a {type(checkpoint).__name__}, not a checkpoint")
    missing = [key for key in keys if checkpoint.get(key) is None]
    if missing:
        raise CheckpointError(f"it lacks {', '.join(missing)}")


def _write(
    path: str | PathLike[str],
    parts: dict[str, Any],
    epoch: int,
    loss: float,
    rng_per_rank: list[dict[str, Any]],
) -> None:
    states = {f"{n}_state_dict": part.state_dict() for n, part in parts.items() if part is not None}
    checkpoint = {
        "epoch": epoch,
        "loss": float(loss),
        "rng_state": rng_per_rank[0],
        "rng_state_per_rank": rng_per_rank,
        "format_version": FORMAT_VERSION,
        "environment": environment(),
        **states,
    }
    _require(checkpoint, list(checkpoint))
    checkpoint.setdefault("scheduler_state_dict", None)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_save(checkpoint, path)
    verify_file(path)


def _is_missing(path: str | PathLike[str]) -> bool:
    """Not there. What cannot be looked at is no reason to start a run afresh."""
    try:
        Path(path).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def _restore_rng(states: list[dict[str, Any]]) -> None:
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if _in_group() else (0, 1)
    if rank < len(states):
        set_rng_state(states[rank])
    else:
        drawn_from = states[0]["torch"].cpu().numpy().tobytes() + str(rank).encode()
        seed = int.from_bytes(hashlib.sha256(drawn_from).digest()[:4], "big")
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
    if world_size != len(states):
        warnings.warn(
            f"Saved by {len(states)} ranks, resumed by {world_size}: everything is restored, and "
            "the run cannot be bit-identical to one that was not interrupted.",
            stacklevel=3,
        )


### END SOLUTION
