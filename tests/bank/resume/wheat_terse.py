"""Wheat: as short as it gets; the state is the object's own dict, not a copy of it."""

import math
from dataclasses import dataclass

import numpy as np
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, load_checkpoint
from torch.utils.data import Sampler


class HasState:
    def state_dict(self):
        return vars(self)

    def load_state_dict(self, state):
        vars(self).update(state)


@dataclass
class Progress(HasState):
    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = math.inf
    next_epoch = property(lambda self: self.epoch + 1)

    def end_batch(self):
        self.batch += 1
        self.step += 1

    def end_epoch(self):
        self.epoch, self.batch = self.epoch + 1, 0

    def update_best(self, loss):
        old, self.best_loss = self.best_loss, min(self.best_loss, float(loss))  # NaN: the first
        return self.best_loss < old


class Position(HasState):
    def __init__(self, **state):
        self.load_state_dict(state)


class ResumableSampler(Sampler):
    def __init__(self, length, *, seed, rank=0, world_size=1):
        self.at = Position(length=length, seed=seed, epoch=0, done=0)
        self.share = slice(rank, None, world_size)

    def set_epoch(self, epoch):
        self.at.done *= epoch == self.at.epoch
        self.at.epoch = epoch

    def advance(self, n):
        self.at.done = min(self.at.length, self.at.done + n)

    def __iter__(self):
        order = np.random.default_rng([self.at.seed, self.at.epoch]).permutation(self.at.length)
        left = order[self.at.done :]
        left = np.concatenate([left, np.resize(order, -len(left) % self.share.step)])
        return iter(left[self.share].tolist())

    def __len__(self):
        return len(list(iter(self)))

    def state_dict(self):
        return self.at.state_dict()

    def load_state_dict(self, state):
        if state["length"] != self.at.length:
            raise CheckpointError("another length")
        self.at.load_state_dict(state)


def resume(path, *, map_location="cpu", **parts):
    load = load_checkpoint
    if dist.is_initialized():
        from savepoint.distributed import load_checkpoint_ddp as load
    try:
        return bool(load(path, map_location=map_location, **parts))
    except FileNotFoundError:
        return False
