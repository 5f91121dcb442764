"""Wrong: puts the model into training mode after loading; "the model's train/eval mode is left as it was"."""

import contextlib
import io
import os
import random
import warnings
from collections import OrderedDict

import numpy as np
import savepoint.checkpoint as single
import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError
from savepoint.files import atomic_save, verify_file
from torch.nn.parallel import DistributedDataParallel


def unwrap(model):
    if isinstance(model, DistributedDataParallel):
        return model.module
    return model


def _shorter(name, prefix):
    return name[len(prefix):] if name.startswith(prefix) else name


def strip_prefix(state_dict, prefix="module."):
    result = OrderedDict()
    for name, tensor in state_dict.items():
        result[_shorter(name, prefix)] = tensor
    if hasattr(state_dict, "_metadata"):
        result._metadata = OrderedDict(
            ("" if f"{name}." == prefix else _shorter(name, prefix), dict(info))
            for name, info in state_dict._metadata.items())
    return result


@contextlib.contextmanager
def _side_group():
    group = dist.new_group(backend="gloo")
    try:
        yield group
    finally:
        dist.destroy_process_group(group)


def _everyones(group, mine):
    out = [None for _ in range(dist.get_world_size())]
    dist.all_gather_object(out, mine, group=group)
    return out


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    common = dict(model=unwrap(model), optimizer=optimizer, scheduler=scheduler, epoch=epoch, loss=loss)
    if not dist.is_initialized():
        return single.save_checkpoint(path, **common, **extra)
    with _side_group() as group:
        per_rank = _everyones(group, single.rng_state())
        failure = None
        if dist.get_rank() == 0:
            try:
                _write(path, per_rank, extra, **common)
            except Exception as e:
                failure = e
        text = _everyones(group, None if failure is None else f"{type(failure).__qualname__}: {failure}")[0]
    if text:
        raise CheckpointError(text) from failure


def _write(path, per_rank, extra, *, model, optimizer, scheduler, epoch, loss):
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts.update((name, part) for name, part in extra.items() if part is not None)
    data = {f"{name}_state_dict": None if part is None else part.state_dict()
            for name, part in parts.items()}
    data.update(epoch=epoch, loss=float(loss), rng_state=per_rank[0], rng_state_per_rank=per_rank)
    if scheduler is not None and data["scheduler_state_dict"] is None or epoch is None:
        raise CheckpointError("a checkpoint needs its epoch and its parts")
    os.makedirs(os.path.dirname(os.path.realpath(path)), exist_ok=True)
    atomic_save(data, path)
    verify_file(path)


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    inner = unwrap(model)
    where = map_location
    if where is None:
        first = next(inner.parameters(), None)
        where = torch.device("cpu") if first is None else first.device

    def attempt():
        with open(path, "rb") as f:
            return torch.load(io.BytesIO(f.read()), map_location=where, weights_only=True)

    if not dist.is_initialized():
        if not os.path.exists(path):
            raise FileNotFoundError(path)
        try:
            content = attempt()
        except Exception as e:
            raise CheckpointError(f"rank 0 cannot read {path} ({type(e).__name__})") from None
        rank, world = 0, 1
    else:
        rank, world = dist.get_rank(), dist.get_world_size()
        with _side_group() as group:
            there = [os.path.exists(path) if rank == 0 else None]
            dist.broadcast_object_list(there, src=0, group=group)
            content, complaint = None, None
            if there[0]:
                try:
                    content = attempt()
                except Exception as e:
                    complaint = f"{type(e).__name__} while reading {path}"
            complaints = _everyones(group, complaint)
        if not there[0]:
            raise FileNotFoundError(f"rank 0 finds no {path}")
        for r in range(world):
            if complaints[r]:
                raise CheckpointError(f"on rank {r}: {complaints[r]}")

    states = content.get("rng_state_per_rank")
    if states is None:
        states = [content.get("rng_state")]
    del content
    found = single.load_checkpoint(path, model=inner, optimizer=optimizer, scheduler=scheduler,
                                   map_location=where, **extra)
    if world != len(states):
        warnings.warn(f"{len(states)} ranks saved this, {world} go on: not bit-identical")
    if rank < len(states):
        single.set_rng_state(states[rank])
    else:
        base = int(np.random.SeedSequence([1234567, len(states), rank]).generate_state(1)[0])
        random.seed(base)
        np.random.seed(base)
        torch.manual_seed(base)
    found["world_size"] = len(states)
    model.train()
    return found
