"""Wrong: LOCAL_RANK decides who writes, so on several nodes there is one writer a node; "one global writer"."""

import os
import random
import warnings

import numpy
import torch
from savepoint.checkpoint import CheckpointError, rng_state, save_checkpoint, set_rng_state
from savepoint.files import atomic_save
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel as DDP


def unwrap(model):
    """The module inside DDP, or the model itself."""
    while isinstance(model, DDP):
        model = model.module
    return model


def strip_prefix(state_dict, prefix="module."):
    """A new mapping of the same kind, without one leading `prefix`."""
    out = type(state_dict)()
    for key in state_dict:
        out[key[len(prefix):] if key.startswith(prefix) else key] = state_dict[key]
    if hasattr(state_dict, "_metadata"):
        meta = type(state_dict._metadata)()
        for key, value in state_dict._metadata.items():
            if key == prefix.rstrip("."):
                key = ""
            elif key.startswith(prefix):
                key = key[len(prefix):]
            meta[key] = value
        out._metadata = meta
    return out


def _world():
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _tell(value):
    """Rank 0's value, on every rank."""
    box = [value]
    if _world()[1] > 1:
        dist.broadcast_object_list(box, src=0)
    return box[0]


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    """save_checkpoint for every rank of a process group.

    Everything that can go wrong goes wrong inside the try: then every rank hears of it.
    """
    if not (dist.is_available() and dist.is_initialized()):
        save_checkpoint(path, model=unwrap(model), optimizer=optimizer, scheduler=scheduler,
                        epoch=epoch, loss=loss, **extra)
        return
    rank, size = _world()
    mine = rng_state()
    states = [None] * size if rank == 0 else None
    dist.gather_object(mine, states, dst=0)

    message, cause = None, None
    states = states or [mine] * size
    if int(os.environ.get("LOCAL_RANK", rank)) == 0:
        try:
            content = dict(
                epoch=epoch,
                model_state_dict=unwrap(model).state_dict(),
                optimizer_state_dict=optimizer.state_dict(),
                scheduler_state_dict=scheduler.state_dict() if scheduler is not None else None,
                loss=float(loss),
                rng_state=mine,
                rng_state_per_rank=states,
            )
            for name in extra:
                if extra[name] is not None:
                    content[name + "_state_dict"] = extra[name].state_dict()
            absent = [k for k, v in content.items() if v is None and not (k.startswith("scheduler") and scheduler is None)]
            if absent:
                raise CheckpointError(f"nothing to save for {absent}")
            parent = os.path.dirname(os.fspath(path))
            if parent:
                os.makedirs(parent, exist_ok=True)
            atomic_save(content, path)
            torch.load(path, map_location="cpu", weights_only=True)
        except Exception as e:
            cause = e
            message = "%s: %s" % (type(e).__name__, e)
    message = _tell(message)
    if message is not None:
        raise RuntimeError("the checkpoint was not saved: " + message) from cause


def _fresh(rank):
    entropy = numpy.random.SeedSequence(int.from_bytes(os.urandom(16), "little"), spawn_key=(rank,))
    a, b, c = (int(x) for x in entropy.generate_state(3))
    random.seed(a)
    numpy.random.seed(b)
    torch.manual_seed(c)


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    rank, size = _world()
    if not _tell(os.path.exists(path)):
        raise FileNotFoundError(f"{path}: no such checkpoint")
    module = unwrap(model)
    if map_location is None:
        try:
            map_location = next(module.parameters()).device
        except StopIteration:
            map_location = "cpu"

    wanted = {"model": module, "optimizer": optimizer, "scheduler": scheduler, **extra}
    wanted = {k + "_state_dict": v for k, v in wanted.items() if v is not None}

    # 1. read and check; nothing is changed yet
    trouble = None
    try:
        ckpt = torch.load(path, map_location=map_location, weights_only=True)
        lacking = [k for k in ("epoch", "loss", "rng_state", *wanted) if ckpt.get(k) is None]
        if lacking:
            trouble = f"it lacks {', '.join(lacking)}"
    except Exception as e:
        trouble = f"it cannot be read ({type(e).__name__})"
    troubles = [trouble]
    if size > 1:
        troubles = [None] * size
        dist.all_gather_object(troubles, trouble)
    bad = {r: t for r, t in enumerate(troubles) if t is not None}
    if bad:
        raise CheckpointError("; ".join(f"rank {r}, {path}: {t}" for r, t in bad.items()))

    # 2. restore, RNG last
    for key, thing in wanted.items():
        thing.load_state_dict(ckpt[key])
    states = ckpt.get("rng_state_per_rank", [ckpt["rng_state"]])
    if len(states) != size:
        warnings.warn(f"world size was {len(states)} and is {size}; the run cannot be bit-identical to an uninterrupted one")
    if rank < len(states):
        set_rng_state(states[rank])
    else:
        _fresh(rank)
    return {"epoch": ckpt["epoch"], "loss": ckpt["loss"], "world_size": len(states)}
