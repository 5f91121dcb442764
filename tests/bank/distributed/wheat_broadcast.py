"""Wheat: gather_object to rank 0, broadcast_object_list from it; rank 0 raises its own error."""

import random
import warnings
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, rng_state, save_checkpoint, set_rng_state
from savepoint.compat import FORMAT_VERSION, environment
from savepoint.files import atomic_save
from torch.nn.parallel import DistributedDataParallel


def unwrap(model):
    return model.module if isinstance(model, DistributedDataParallel) else model


def strip_prefix(state_dict, prefix="module."):
    stripped = OrderedDict()
    for name, tensor in state_dict.items():
        stripped[name[len(prefix) :] if name.startswith(prefix) else name] = tensor
    if hasattr(state_dict, "_metadata"):
        stripped._metadata = OrderedDict()
        for name, entry in state_dict._metadata.items():
            if name == prefix.rstrip("."):
                name = ""
            elif name.startswith(prefix):
                name = name[len(prefix) :]
            stripped._metadata[name] = entry
    return stripped


def _distributed():
    return dist.is_available() and dist.is_initialized()


def _from_rank0(value):
    """Rank 0's value, everywhere."""
    if not _distributed():
        return value
    box = [value if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def _to_rank0(value):
    """Every rank's value, on rank 0; None elsewhere."""
    if not _distributed():
        return [value]
    values = [None] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(value, values, dst=0)
    return values


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    model = unwrap(model)
    if not _distributed():
        save_checkpoint(
            path,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            epoch=epoch,
            loss=loss,
            **extra,
        )
        return
    states = _to_rank0(rng_state())
    error = None
    if dist.get_rank() == 0:
        try:
            content = {
                "format_version": FORMAT_VERSION,
                "environment": environment(),
                "epoch": epoch,
                "loss": float(loss),
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
                "scheduler_state_dict": scheduler.state_dict() if scheduler is not None else None,
                "rng_state": states[0],
                "rng_state_per_rank": states,
                "world_size": len(states),
            }
            for name, part in extra.items():
                if part is not None:
                    content[name + "_state_dict"] = part.state_dict()
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            atomic_save(content, path)
        except Exception as caught:
            error = caught
    message = _from_rank0(error and f"{type(error).__module__}.{type(error).__name__}: {error}")
    if error is not None:
        raise error
    if message is not None:
        raise OSError(f"rank 0 could not write {path}: {message}")


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    if not _from_rank0(Path(path).exists()):
        raise FileNotFoundError(f"rank 0 sees no {path}")
    model = unwrap(model)
    wanted = {"model": model, "optimizer": optimizer, "scheduler": scheduler} | extra
    wanted = {f"{name}_state_dict": part for name, part in wanted.items() if part is not None}
    if map_location is None:
        devices = {parameter.device for parameter in model.parameters()}
        map_location = devices.pop() if devices else "cpu"
    content, problem = None, None
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
        for key in ("epoch", "loss", "rng_state", *wanted):
            if content.get(key) is None:
                raise LookupError(f"{key} is missing")
    except Exception as caught:
        problem = f"{type(caught).__name__}: {str(caught)[:80]}"
    problems = _to_rank0(problem)
    verdict = _from_rank0(problems)
    for rank, problem in enumerate(verdict):
        if problem is not None:
            raise CheckpointError(f"rank {rank} cannot use {path}: {problem}")
    for key, part in wanted.items():
        part.load_state_dict(content[key])
    states = content.get("rng_state_per_rank", [content["rng_state"]])
    rank = dist.get_rank() if _distributed() else 0
    if rank >= len(states):
        fresh = np.random.SeedSequence([rank, int(states[0]["torch"].long().sum())])
        a, b, c = (int(x) for x in fresh.generate_state(3))
        random.seed(a)
        np.random.seed(b)
        torch.manual_seed(c)
    else:
        set_rng_state(states[rank])
    if len(verdict) != len(states) and rank == 0:
        warnings.warn(f"world size {len(states)} -> {len(verdict)}: not bit-identical any more")
    return {"epoch": content["epoch"], "loss": content["loss"], "world_size": len(states)}
