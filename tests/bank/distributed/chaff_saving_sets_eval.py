"""Wrong: puts the model into eval mode to save it; "saving ... changes no mode"."""

import os
import random
import warnings
from collections import OrderedDict

import numpy as np
import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, load_checkpoint, rng_state, set_rng_state
from savepoint.files import atomic_save, verify_file


def unwrap(model):
    return model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model


def strip_prefix(state_dict, prefix="module."):
    def short(name):
        return name.removeprefix(prefix)

    new = OrderedDict(zip(map(short, state_dict.keys()), state_dict.values()))
    if hasattr(state_dict, "_metadata"):
        new._metadata = OrderedDict()
        for name, version in state_dict._metadata.items():
            new._metadata["" if name + "." == prefix else short(name)] = version
    return new


class _Comm:
    def __init__(self):
        grouped = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if grouped else 0
        self.size = dist.get_world_size() if grouped else 1
        self.grouped = grouped

    def all(self, value):
        if not self.grouped:
            return [value]
        out = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def from_zero(self, value):
        return self.all(value if self.rank == 0 else None)[0]

    def attempt(self, function, *, only=None):
        """Call it (on rank `only`), then tell everybody; returns (result, [(rank, text), …], own error)."""
        result, error = None, None
        if only is None or self.rank == only:
            try:
                result = function()
            except Exception as e:
                error = e
        texts = self.all(f"{type(error).__name__}: {error}" if error is not None else None)
        return result, [(r, t) for r, t in enumerate(texts) if t is not None], error


class _Content:
    """What goes into the file."""

    def __init__(self, states, model, optimizer, scheduler, epoch, loss, extra):
        self.required = {"epoch": epoch, "rng_state": states[0], "rng_state_per_rank": states}
        self.loss = loss
        self.parts = {"model": unwrap(model).eval(), "optimizer": optimizer}
        self.parts.update({k: v for k, v in extra.items() if v is not None})
        self.scheduler = scheduler

    def build(self):
        data = dict(self.required, loss=float(self.loss))
        data.update((f"{k}_state_dict", v.state_dict()) for k, v in self.parts.items())
        if self.scheduler is not None:
            data["scheduler_state_dict"] = self.scheduler.state_dict()
        missing = sorted(k for k, v in data.items() if v is None)
        if missing:
            raise CheckpointError(f"None cannot be saved as {missing}")
        data.setdefault("scheduler_state_dict", None)
        return data

    def write(self, path):
        data = self.build()
        os.makedirs(os.path.dirname(os.path.abspath(os.fspath(path))), exist_ok=True)
        atomic_save(data, path)
        verify_file(path)


def save_checkpoint_ddp(path, *, model, optimizer, scheduler, epoch, loss, **extra):
    comm = _Comm()
    states = comm.all(rng_state())
    content = _Content(states, model, optimizer, scheduler, epoch, loss, extra)
    _, failures, cause = comm.attempt(lambda: content.write(path), only=0)
    if failures:
        if not comm.grouped:
            raise cause
        raise CheckpointError(f"saving {os.fspath(path)} failed on rank 0 with {failures[0][1]}") from cause


def load_checkpoint_ddp(path, *, model, optimizer=None, scheduler=None, map_location=None, **extra):
    comm = _Comm()
    if not comm.from_zero(os.path.exists(path)):
        raise FileNotFoundError(os.fspath(path))
    target = unwrap(model)
    if map_location is None:
        tensors = list(target.parameters()) or list(target.buffers()) or [torch.zeros(())]
        map_location = tensors[0].device

    def read():
        try:
            whole = torch.load(path, map_location=map_location, weights_only=True)
        except Exception as e:
            raise CheckpointError(f"{type(e).__name__} from torch.load") from None
        return whole.get("rng_state_per_rank", [whole.get("rng_state")])

    states, failures, _ = comm.attempt(read)
    if failures:
        raise CheckpointError(", ".join(f"rank {r} could not read {os.fspath(path)} ({t})" for r, t in failures))
    info = load_checkpoint(path, model=target, optimizer=optimizer, scheduler=scheduler,
                           map_location=map_location, **extra)
    saved = len(states)
    if comm.rank < saved:
        set_rng_state(states[comm.rank])
    else:
        self_made = np.random.SeedSequence(entropy=states[0]["torch"].cpu().tolist(), spawn_key=(comm.rank,))
        words = self_made.generate_state(4)
        random.seed(int(words[0]))
        np.random.seed(words[1:3])
        torch.manual_seed(int(words[3]))
    if saved != comm.size:
        warnings.warn(f"the checkpoint has {saved} ranks and this run {comm.size}: it cannot be bit-identical", RuntimeWarning)
    info.update(world_size=saved)
    return info
