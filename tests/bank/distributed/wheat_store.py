"""Wheat: talks through the group's key-value store, with no collective at all."""

import itertools
import os
import pickle
import random
import time
import warnings
from collections import OrderedDict

import numpy as np
import torch
from savepoint.checkpoint import CheckpointError, rng_state, save_checkpoint, set_rng_state
from savepoint.files import atomic_save
from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store
from torch.nn.parallel import DistributedDataParallel

_calls = itertools.count()


def unwrap(model):
    return model.module if isinstance(model, DistributedDataParallel) else model


def strip_prefix(state_dict, prefix="module."):
    new = OrderedDict(zip((n.removeprefix(prefix) for n in state_dict), state_dict.values()))
    if hasattr(state_dict, "_metadata"):
        old = state_dict._metadata
        new._metadata = {(n + ".").removeprefix(prefix).rstrip("."): old[n] for n in old}
    return new


class Alone:
    rank, size = 0, 1

    def share(self, value):
        return [value]


class Store:
    """Each rank puts its value under a key of its own, and waits for the others' keys."""

    def __init__(self):
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.store = _get_default_store()

    def share(self, value):
        call = next(_calls)
        self.store.set(f"savepoint/{call}/{self.rank}", pickle.dumps(value))
        values = [self.store.get(f"savepoint/{call}/{rank}") for rank in range(self.size)]
        # Rank 0 may be the server, and must not go before everybody has got their answers.
        done = self.store.add(f"savepoint/{call}/done", 1)
        while self.rank == 0 and done < self.size:
            time.sleep(0.002)
            done = self.store.add(f"savepoint/{call}/done", 0)
        return [pickle.loads(value) for value in values]


def group():
    return Store() if distributed.is_initialized() else Alone()


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    everybody = group()
    kept = dict(model=unwrap(model), optimizer=optimizer, scheduler=scheduler, **extra)
    if not distributed.is_initialized():
        return save_checkpoint(path, epoch=epoch, loss=loss, **kept)
    states = everybody.share(rng_state())
    problem = None
    if everybody.rank == 0:
        try:
            data = dict(epoch=epoch, loss=float(loss), rng_state=states[0])
            data["rng_state_per_rank"] = states
            data["scheduler_state_dict"] = None
            for name, part in kept.items():
                if part is not None:
                    data[f"{name}_state_dict"] = part.state_dict()
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            atomic_save(data, path)
        except Exception as error:
            problem = (type(error).__name__, str(error))
    problem = everybody.share(problem)[0]
    if problem is not None:
        raise CheckpointError("the writer failed with {}: {}".format(*problem))


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    everybody = group()
    if not all(everybody.share(os.path.exists(path))):
        raise FileNotFoundError(f"{path} is not there, on one rank at least")
    kept = dict(model=unwrap(model), optimizer=optimizer, scheduler=scheduler, **extra)
    kept = {name: part for name, part in kept.items() if part is not None}
    data, problem = {}, None
    try:
        home = next((p.device for p in kept["model"].parameters()), "cpu")
        data = torch.load(path, map_location=map_location or home)
        needed = {"epoch", "loss", "rng_state"} | {f"{name}_state_dict" for name in kept}
        lacking = sorted(key for key in needed if data.get(key) is None)
        problem = f"lacks {lacking}" if lacking else None
    except Exception as error:
        problem = f"{type(error).__name__}"
    problems = dict(enumerate(everybody.share(problem)))
    problems = {rank: text for rank, text in problems.items() if text}
    if problems:
        raise CheckpointError(f"{path}, by rank: {problems}")
    for name, part in kept.items():
        part.load_state_dict(data[f"{name}_state_dict"])
    states = data.get("rng_state_per_rank") or [data["rng_state"]]
    if everybody.rank < len(states):
        set_rng_state(states[everybody.rank])
    else:
        random.seed()
        np.random.seed()
        torch.seed()
    if everybody.size != len(states):
        warnings.warn("the run cannot be bit-identical: the number of ranks has changed")
    return {"epoch": data["epoch"], "loss": data["loss"], "world_size": len(states)}
