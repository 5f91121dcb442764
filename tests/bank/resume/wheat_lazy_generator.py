"""Wheat: iterates lazily (nothing is computed before the first index is asked for), yields NumPy
integers, pads with what is left (round and round), and takes a loss in its own precision."""

from dataclasses import dataclass, field
from math import inf

import numpy as np
import torch
from savepoint import checkpoint
from torch.utils.data import Sampler


@dataclass(eq=False)
class Progress:
    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = inf
    history: list = field(default_factory=list, repr=False)

    @property
    def next_epoch(self):
        return 1 + self.epoch

    def end_batch(self):
        self.step += 1
        self.batch += 1

    def end_epoch(self):
        self.history.append(self.batch)
        self.batch = 0
        self.epoch += 1

    def update_best(self, loss):
        if loss < self.best_loss:
            self.best_loss = float(loss)
            return True
        return False

    def state_dict(self):
        return {
            "v": 1,
            "fields": (self.epoch, self.batch, self.step, self.best_loss),
            "h": self.history,
        }

    def load_state_dict(self, state):
        self.epoch, self.batch, self.step, self.best_loss = state["fields"]
        self.history = list(state["h"])


class ResumableSampler(Sampler[int]):
    def __init__(self, length, *, seed, rank=0, world_size=1):
        self._length, self._seed, self._rank, self._world = length, seed, rank, world_size
        self._epoch = self._left = None
        self.set_epoch(0)

    def set_epoch(self, epoch):
        if epoch != self._epoch:
            self._epoch, self._left = epoch, self._length

    def advance(self, n):
        self._left = max(0, self._left - n)

    def __len__(self):
        whole, rest = divmod(self._left, self._world)
        return whole + bool(rest)

    def __iter__(self):
        steps, left = len(self), self._left
        order = np.random.RandomState([self._seed, self._epoch]).permutation(self._length)
        for step in range(steps):
            nth = step * self._world + self._rank
            yield order[self._length - left + nth % left]

    def state_dict(self):
        return {"of": self._length, "left": self._left, "order": [self._seed, self._epoch]}

    def load_state_dict(self, state):
        if self._length != state["of"]:
            raise checkpoint.CheckpointError(f"{state['of']} samples then, {self._length} now")
        self._left = state["left"]
        self._seed, self._epoch = state["order"]


def resume(path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra):
    extra |= {"progress": progress, "sampler": sampler, "map_location": map_location}
    if torch.distributed.is_initialized():
        from savepoint import distributed

        call = distributed.load_checkpoint_ddp
    else:
        call = checkpoint.load_checkpoint
    try:
        call(path, model=model, optimizer=optimizer, scheduler=scheduler, **extra)
    except FileNotFoundError:
        return False
    else:
        return True
