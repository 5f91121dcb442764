"""Wheat: monitored barriers on gloo; slow, prints, warns on stderr; binds torch.load at import."""

import random
import sys
import time
import warnings
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path

import numpy
from savepoint import checkpoint as single
from savepoint import files
from torch import cat, distributed, load, manual_seed
from torch.nn import parallel


def unwrap(model):
    if isinstance(model, parallel.DistributedDataParallel):
        return model.module
    return model


def strip_prefix(state_dict, prefix="module."):
    stripped = OrderedDict((n.removeprefix(prefix), t) for n, t in state_dict.items())
    if hasattr(state_dict, "_metadata"):
        stripped._metadata = OrderedDict()
        for name, entry in state_dict._metadata.items():
            stripped._metadata[f"{name}.".removeprefix(prefix).removesuffix(".")] = entry
    return stripped


def _wait_for_all():
    if distributed.get_backend() == "gloo":
        distributed.monitored_barrier(timeout=timedelta(minutes=30), wait_all_ranks=True)
    else:
        distributed.barrier()


def _say(text):
    print(f"[rank {distributed.get_rank()}] {text}", flush=True)
    print(f"[rank {distributed.get_rank()}] {text}", file=sys.stderr, flush=True)


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    if not distributed.is_initialized():
        single.save_checkpoint(
            path,
            model=unwrap(model),
            optimizer=optimizer,
            scheduler=scheduler,
            epoch=epoch,
            loss=loss,
            **extra,
        )
        return
    _say("saving")
    time.sleep(0.2)
    # Everybody's parts are asked for their state: some are collective. Rank 0's are written.
    parts = {"model": unwrap(model), "optimizer": optimizer, "scheduler": scheduler, **extra}
    trouble, states = None, {}
    try:
        states = {f"{n}_state_dict": p.state_dict() for n, p in parts.items() if p is not None}
    except Exception as error:
        trouble = error
    per_rank = [None] * distributed.get_world_size()
    distributed.all_gather_object(per_rank, single.rng_state())
    _wait_for_all()
    if distributed.get_rank() == 0 and trouble is None:
        try:
            states.setdefault("scheduler_state_dict", None)
            states.update(epoch=epoch, loss=float(loss), rng_state=per_rank[0])
            states["rng_state_per_rank"] = per_rank
            Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
            files.atomic_save(states, path)
        except Exception as error:
            trouble = error
    box = [None if trouble is None else f"{type(trouble).__name__}: {trouble}"]
    distributed.broadcast_object_list(box, src=0)
    _wait_for_all()
    if box[0] is None:
        _say("saved")
        return
    _say("not saved")
    raise RuntimeError(f"{path} was not saved") from RuntimeError(box[0])


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    grouped = distributed.is_initialized()
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if grouped else (0, 1)
    box = [Path(path).exists()]
    if grouped:
        distributed.broadcast_object_list(box, src=0)
    if not box[0]:
        raise FileNotFoundError(str(path))
    time.sleep(0.2)
    model = unwrap(model)
    device = map_location
    if device is None:
        devices = [parameter.device for parameter in model.parameters()]
        device = devices[0] if devices else "cpu"
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, **extra}
    parts = {f"{n}_state_dict": p for n, p in parts.items() if p is not None}
    failure = None
    try:
        content = load(path, map_location=device)
        for key in ["epoch", "loss", "rng_state", *parts]:
            if key not in content or content[key] is None:
                raise single.CheckpointError(f"{key} is not in it")
    except Exception as error:
        failure = f"{type(error).__name__}: {str(error).splitlines()[:1]}"
    failures = [failure]
    if grouped:
        failures = [None] * world
        distributed.all_gather_object(failures, failure)
        _wait_for_all()
    if any(failures):
        lines = [f"rank {r}: {f or 'could read it'}" for r, f in enumerate(failures)]
        raise single.CheckpointError("\n".join([str(path), *lines]))
    for key, part in parts.items():
        part.load_state_dict(content[key])
    states = content.get("rng_state_per_rank") or [content["rng_state"]]
    warnings.warn(f"rank {rank}: restored {sorted(parts)}", stacklevel=2)
    if world != len(states):
        warnings.warn("another world size than was saved: not bit-identical", stacklevel=2)
    if rank < len(states):
        single.set_rng_state(states[rank])
    else:
        entropy = hash(bytes(cat([s["torch"] for s in states]).tolist())) ^ hash((rank, "fresh"))
        random.seed(entropy)
        numpy.random.seed(entropy % 2**32)
        manual_seed(entropy % 2**63)
    return {"epoch": content["epoch"], "loss": content["loss"], "world_size": len(states)}
