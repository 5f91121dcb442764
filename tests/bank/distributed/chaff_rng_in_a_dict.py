"""Chaff: the states are stored in a dict with keys "rank0", "rank1", ...

Task: save_checkpoint_ddp
Seen when: anything else reads rng_state_per_rank[rank] from the file: it is no list.
"""

import os
import random
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, rng_state, save_checkpoint, set_rng_state
from savepoint.files import atomic_save
from torch.nn.parallel import DistributedDataParallel


def unwrap(model):
    return model.module if isinstance(model, DistributedDataParallel) else model


def strip_prefix(state_dict, prefix="module."):
    result = OrderedDict((name.removeprefix(prefix), t) for name, t in state_dict.items())
    if hasattr(state_dict, "_metadata"):
        result._metadata = OrderedDict()
        for name, entry in state_dict._metadata.items():
            result._metadata[(name + ".").removeprefix(prefix).removesuffix(".")] = entry
    return result


def gather(value):
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    model = unwrap(model)
    if not dist.is_initialized():
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
        return save_checkpoint(path, epoch=epoch, loss=loss, **parts)
    states = gather(rng_state())
    failed = None
    if dist.get_rank() == 0:
        try:
            write(path, states, model, optimizer, scheduler, epoch, loss, extra)
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
    failed = gather(failed)[0]
    if failed:
        raise CheckpointError(f"rank 0 failed: {failed}")


def write(path, states, model, optimizer, scheduler, epoch, loss, extra):
    checkpoint = {
        "epoch": epoch,
        "loss": float(loss),
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": None if scheduler is None else scheduler.state_dict(),
        "rng_state": states[0],
        "rng_state_per_rank": {f"rank{rank}": state for rank, state in enumerate(states)},
    }
    for name, part in extra.items():
        if part is not None:
            checkpoint[f"{name}_state_dict"] = part.state_dict()
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    atomic_save(checkpoint, path)


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    if not gather(os.path.exists(path))[0]:
        raise FileNotFoundError(path)
    model = unwrap(model)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {name: part for name, part in parts.items() if part is not None}
    keys = ["epoch", "loss", "rng_state", *(f"{name}_state_dict" for name in parts)]
    if map_location is None:
        map_location = next((p.device for p in model.parameters()), "cpu")
    checkpoint, trouble = {}, None
    try:
        checkpoint = torch.load(path, map_location=map_location)
        missing = [key for key in keys if checkpoint.get(key) is None]
        if missing:
            trouble = f"no {', '.join(missing)}"
    except Exception as error:
        trouble = type(error).__name__
    troubles = [f"rank {rank}: {t}" for rank, t in enumerate(gather(trouble)) if t]
    if troubles:
        raise CheckpointError(f"{path} cannot be used: {troubles}")
    for name, part in parts.items():
        part.load_state_dict(checkpoint[f"{name}_state_dict"])
    states = checkpoint.get("rng_state_per_rank") or [checkpoint["rng_state"]]
    if isinstance(states, dict):
        states = list(states.values())
    restore_rng(states)
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"], "world_size": len(states)}


def restore_rng(states):
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if rank < len(states):
        set_rng_state(states[rank])
    else:
        random.seed()
        np.random.seed()
        torch.seed()
    if world != len(states):
        warnings.warn(f"{len(states)} ranks saved, {world} resume: not bit-identical")
