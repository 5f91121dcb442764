"""Wheat: lets save_checkpoint and load_checkpoint do the work, and adds what ranks need."""

import contextlib
import os
import random
import tempfile
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from savepoint.checkpoint import (
    CheckpointError,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from savepoint.files import atomic_save
from torch.nn.parallel import DistributedDataParallel


def unwrap(model):
    return model.module if isinstance(model, DistributedDataParallel) else model


def strip_prefix(state_dict, prefix="module."):
    names = {name: name.removeprefix(prefix) for name in state_dict}
    result = OrderedDict((names[name], state_dict[name]) for name in state_dict)
    if hasattr(state_dict, "_metadata"):
        result._metadata = type(state_dict._metadata)()
        for name, versions in state_dict._metadata.items():
            result._metadata[(name + ".").removeprefix(prefix).removesuffix(".")] = dict(versions)
    return result


def _all(value):
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


@contextlib.contextmanager
def _shared_fate(what):
    """An error in the block, on any rank, is an error on every rank after it."""
    mine = None
    try:
        yield
    except Exception as error:
        mine = error
    text = None if mine is None else f"{type(mine).__name__}: {str(mine)[:300]}"
    failed = [f"rank {rank}: {text}" for rank, text in enumerate(_all(text)) if text]
    if failed:
        raise CheckpointError(f"{what}: {' | '.join(failed)}") from mine


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    states = _all(rng_state())
    with _shared_fate(f"saving {path}"):
        if not dist.is_initialized() or dist.get_rank() == 0:
            path = Path(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".saving-", dir=path.parent) as folder:
                draft = Path(folder) / "draft.pt"
                save_checkpoint(
                    draft,
                    model=unwrap(model),
                    optimizer=optimizer,
                    scheduler=scheduler,
                    epoch=epoch,
                    loss=loss,
                    **extra,
                )
                checkpoint = torch.load(draft)
            checkpoint["rng_state_per_rank"] = states
            atomic_save(checkpoint, path)


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    if not _all(os.path.exists(path))[0]:
        raise FileNotFoundError(path)
    model = unwrap(model)
    if map_location is None:
        map_location = next(model.parameters(), torch.empty(0)).device
    with _shared_fate(f"reading {path}"):
        saved = torch.load(path, map_location="cpu", mmap=True)
        states = saved.get("rng_state_per_rank") or [saved["rng_state"]]
    result = load_checkpoint(
        path,
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        map_location=map_location,
        **extra,
    )
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank < len(states):
        set_rng_state(states[rank])
    else:
        draws = [torch.randint(2**31, (), dtype=torch.int64).item() for _ in range(rank + 1)]
        random.seed(draws[-1])
        np.random.seed(draws[-1])
        torch.manual_seed(draws[-1])
    if len(states) != (dist.get_world_size() if dist.is_initialized() else 1):
        warnings.warn("Resumed with another number of ranks: this run cannot be bit-identical.")
    return {**result, "world_size": len(states)}
