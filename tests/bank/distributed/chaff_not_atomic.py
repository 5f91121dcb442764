"""Wrong: torch.save straight onto the path, without fsync: a failed save destroys the old file and nothing is durable; "returns when the file is durable"."""

import logging
import os
import pickle
import random
import secrets
import warnings
from collections import OrderedDict

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
from savepoint.files import atomic_save, verify_file
from torch.nn.parallel import DistributedDataParallel as DDP

log = logging.getLogger("savepoint.ddp")


def unwrap(model):
    return model.module if isinstance(model, DDP) else model


def strip_prefix(state_dict, prefix="module."):
    n = len(prefix)
    new = OrderedDict([(k[n:], v) if k[:n] == prefix else (k, v) for k, v in state_dict.items()])
    if hasattr(state_dict, "_metadata"):
        new._metadata = OrderedDict()
        for k, v in state_dict._metadata.items():
            dotted = k + "."
            new._metadata[dotted[n:-1] if dotted[:n] == prefix else k] = v
    return new


def _share(value):
    """Every rank's value, by rank."""
    world = dist.get_world_size()
    raw = torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([raw.numel()]))
    longest = max(int(s) for s in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: raw.numel()] = raw
    parcels = [torch.empty(longest, dtype=torch.uint8) for _ in range(world)]
    dist.all_gather(parcels, padded)
    dist.barrier()
    return [pickle.loads(p[: int(s)].numpy().tobytes()) for p, s in zip(parcels, sizes)]


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    if not dist.is_initialized():
        save_checkpoint(path, model=unwrap(model), optimizer=optimizer, scheduler=scheduler, epoch=epoch, loss=loss, **extra)
        return
    states = _share(rng_state())
    log.info("rank %d: %d RNG states", dist.get_rank(), len(states))
    outcome, caught = ("fine", ""), None
    if dist.get_rank() == 0:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            blob = {"epoch": epoch, "loss": float(loss), "rng_state": states[0], "rng_state_per_rank": states}
            blob["model_state_dict"] = unwrap(model).state_dict()
            blob["optimizer_state_dict"] = optimizer.state_dict()
            blob["scheduler_state_dict"] = None
            if scheduler is not None:
                blob["scheduler_state_dict"] = scheduler.state_dict()
            for name, value in extra.items():
                if value is not None:
                    blob[name + "_state_dict"] = value.state_dict()
            torch.save(blob, path)
            verify_file(path)
            back = torch.load(path, map_location="cpu", weights_only=True)
            for key in blob:
                if back.get(key) is None and (key != "scheduler_state_dict" or scheduler is not None):
                    raise CheckpointError(f"{key} did not reach the file")
        except Exception as e:
            caught = e
            outcome = (type(e).__name__, str(e))
            log.error("rank 0 could not write %s: %r", path, e)
    outcome = _share(outcome)[0]
    dist.barrier()
    if outcome[0] != "fine":
        raise CheckpointError("writing failed on rank 0 ({}: {})".format(*outcome)) from caught
    log.info("rank %d: %s is durable", dist.get_rank(), path)


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    grouped = dist.is_initialized()
    rank = dist.get_rank() if grouped else 0
    size = dist.get_world_size() if grouped else 1
    share = _share if grouped else lambda value: [value]

    found = share(os.path.exists(path) if rank == 0 else None)[0]
    if not found:
        raise FileNotFoundError(f"{path} (as rank 0 sees it)")

    if map_location is None:
        map_location = next((p.device for p in unwrap(model).parameters()), torch.device("cpu"))
    ok, states = True, None
    try:
        payload = torch.load(path, map_location=map_location, weights_only=True)
        states = payload["rng_state_per_rank"] if "rng_state_per_rank" in payload else [payload.get("rng_state")]
    except Exception as e:
        ok = False
        log.error("rank %d cannot read %s: %s", rank, path, type(e).__name__)
    unable = [str(r) for r, good in enumerate(share(ok)) if not good]
    if unable:
        raise CheckpointError(f"{path} could not be read by rank {', rank '.join(unable)}")

    info = load_checkpoint(path, model=unwrap(model), optimizer=optimizer, scheduler=scheduler, map_location=map_location, **extra)

    if rank < len(states):
        set_rng_state(states[rank])
    else:
        random.seed(secrets.randbits(64))
        np.random.seed(secrets.randbits(32))
        torch.manual_seed(secrets.randbits(60))
        log.warning("rank %d starts with a fresh RNG", rank)
    if len(states) != size:
        warnings.warn(f"{path} was saved with world size {len(states)}, now {size}; bit-identical it cannot be")
    if grouped:
        dist.barrier()
    return dict(info, world_size=len(states))
