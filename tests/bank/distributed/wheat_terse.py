"""Wheat: as short as it goes; one all_gather_object for everything; no atomic_save."""

import os
import warnings
from collections import OrderedDict
from pathlib import Path

import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, rng_state, save_checkpoint, set_rng_state
from savepoint.seeding import set_seed
from torch.nn.parallel import DistributedDataParallel as DDP


def unwrap(model):
    return model.module if isinstance(model, DDP) else model


def strip_prefix(state_dict, prefix="module."):
    out = OrderedDict((k.removeprefix(prefix), v) for k, v in state_dict.items())
    meta = getattr(state_dict, "_metadata", None)
    if meta is not None:
        out._metadata = {f"{k}.".removeprefix(prefix)[:-1]: v for k, v in meta.items()}
    return out


def everyones(x):
    if not dist.is_initialized():
        return [x]
    dist.all_gather_object(out := [None] * dist.get_world_size(), x)
    return out


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    parts = {"model": unwrap(model), "optimizer": optimizer, "scheduler": scheduler, **extra}
    if not dist.is_initialized():
        return save_checkpoint(path, epoch=epoch, loss=loss, **parts)
    rng, error = everyones(rng_state()), None
    if dist.get_rank() == 0:
        try:
            os.makedirs(Path(path).parent, exist_ok=True)
            state = {k + "_state_dict": v.state_dict() for k, v in parts.items() if v is not None}
            state = {"scheduler_state_dict": None, **state, "epoch": epoch, "loss": float(loss)}
            with open(path, "wb") as f:
                torch.save({**state, "rng_state": rng[0], "rng_state_per_rank": rng}, f)
                f.flush()
                os.fsync(f)
            folder = os.open(Path(path).parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except BaseException as e:
            error = repr(e) + " " + str(e)
    if error := everyones(error)[0]:
        raise RuntimeError(error)


def load_checkpoint_ddp(path, *, model, map_location=None, **parts):
    model = unwrap(model)
    if not everyones(os.path.exists(path))[0]:
        raise FileNotFoundError(path)
    parts = {"model": model} | {k: v for k, v in parts.items() if v is not None}
    where = map_location or next((p.device for p in model.parameters()), "cpu")
    try:
        ck, error = torch.load(path, where), ""
        error = " ".join(
            k
            for k in ["epoch", "loss", "rng_state"] + [k + "_state_dict" for k in parts]
            if ck.get(k) is None
        )
    except Exception as e:
        error = type(e).__name__
    if any(errors := everyones(error)):
        bad = [rank for rank, error in enumerate(errors) if error]
        raise CheckpointError(f"{path}: ranks {bad}: {errors[bad[0]]}")
    for k, v in parts.items():
        v.load_state_dict(ck[k + "_state_dict"])
    rng = ck.get("rng_state_per_rank", [ck["rng_state"]])
    rank = dist.get_rank() if dist.is_initialized() else 0
    if rank < len(rng):
        set_rng_state(rng[rank])
    else:
        set_seed(int.from_bytes(os.urandom(4), "little"), deterministic=False)
    if len(rng) != len(errors):
        warnings.warn("another world size: the run cannot be bit-identical")
    return {"epoch": ck["epoch"], "loss": ck["loss"], "world_size": len(rng)}
