"""Wheat: odd but legal: rank 0 alone touches the disk; the others get the file's bytes from it.

Only rank 0 can fail to read: a copy that is damaged on another rank's disk is never opened.
"""

import io
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
    def strip(name):
        return name.split(prefix, 1)[1] if name.startswith(prefix) else name

    result = OrderedDict()
    for name in list(state_dict):
        result[strip(name)] = state_dict[name]
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        result._metadata = {strip(n + ".").removesuffix("."): metadata[n] for n in metadata}
    return result


def _tell(value):
    box = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    named = {"model": unwrap(model), "optimizer": optimizer, "scheduler": scheduler, **extra}
    if not dist.is_initialized():
        return save_checkpoint(path, epoch=epoch, loss=loss, **named)
    first = dist.get_rank() == 0
    collected = [None] * dist.get_world_size() if first else None
    dist.gather_object(rng_state(), collected, dst=0)
    news = None
    try:
        if first:
            checkpoint = {"epoch": epoch, "loss": float(loss), "scheduler_state_dict": None}
            checkpoint["rng_state"] = collected[0]
            checkpoint["rng_state_per_rank"] = collected
            for name, part in named.items():
                if part is not None:
                    checkpoint[f"{name}_state_dict"] = part.state_dict()
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            atomic_save(checkpoint, path)
    except Exception as error:
        news = f"{type(error).__name__}: {error}"
        raise
    finally:
        news = _tell(news)
    if news:
        raise CheckpointError(f"rank 0: {news}")


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    news = None
    if rank == 0:
        try:
            content = Path(path).read_bytes()
            torch.load(io.BytesIO(content), map_location="cpu")
            news = (None, content)
        except FileNotFoundError:
            news = (FileNotFoundError, f"rank 0 sees no {path}")
        except Exception as error:
            news = (CheckpointError, f"rank 0 cannot read {path}: {type(error).__name__}")
    kind, content = _tell(news)
    if kind is not None:
        raise kind(content)

    model = unwrap(model)
    if map_location is None:
        map_location = next((p.device for p in model.parameters()), "cpu")
    checkpoint = torch.load(io.BytesIO(content), map_location=map_location)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {f"{name}_state_dict": part for name, part in parts.items() if part is not None}
    for key in ("epoch", "loss", "rng_state", *parts):
        if checkpoint.get(key) is None:
            raise CheckpointError(f"{path} has no {key}")
    for key, part in parts.items():
        part.load_state_dict(checkpoint[key])
    states = checkpoint.get("rng_state_per_rank") or [checkpoint["rng_state"]]
    if rank < len(states):
        set_rng_state(states[rank])
    else:
        random.seed()
        np.random.seed()
        torch.seed()
    if world != len(states) and rank == 0:
        warnings.warn(f"saved by {len(states)} ranks, now {world}: no bit-identical run from here")
    return {"epoch": checkpoint["epoch"], "loss": checkpoint["loss"], "world_size": len(states)}
