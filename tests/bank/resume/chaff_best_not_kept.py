"""Chaff: update_best() answers and does not remember.
Task: Progress

Seen when: a good loss, then a worse but finite one: the second is better too.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, load_checkpoint
from torch.utils.data import Sampler


@dataclass
class Progress:
    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = math.inf

    @property
    def next_epoch(self):
        return self.epoch + 1

    def end_batch(self):
        self.batch += 1
        self.step += 1

    def end_epoch(self):
        self.epoch += 1
        self.batch = 0

    def update_best(self, loss):
        loss = float(loss)
        if loss < self.best_loss:
            return True
        return False

    def state_dict(self):
        return asdict(self)

    def load_state_dict(self, state):
        self.epoch = state["epoch"]
        self.batch = state["batch"]
        self.step = state["step"]
        self.best_loss = state["best_loss"]


class ResumableSampler(Sampler):
    def __init__(self, length, *, seed, rank=0, world_size=1):
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0

    def set_epoch(self, epoch):
        if epoch != self.epoch:
            self.epoch = epoch
            self.position = 0

    def advance(self, n):
        self.position = min(self.position + n, self.length)

    def _order(self):
        generator = torch.Generator().manual_seed(1_000_003 * self.seed + self.epoch)
        return torch.randperm(self.length, generator=generator).tolist()

    def __iter__(self):
        order = self._order()
        left = order[self.position :]
        i = 0
        while len(left) % self.world_size:
            left.append(order[i % self.length])
            i += 1
        return iter(left[self.rank :: self.world_size])

    def __len__(self):
        return math.ceil((self.length - self.position) / self.world_size)

    def state_dict(self):
        return {
            "length": self.length,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
        }

    def load_state_dict(self, state):
        if state["length"] != self.length:
            raise CheckpointError(f"a state of length {state['length']}, not {self.length}")
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self.position = state["position"]


def resume(path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra):
    load = load_checkpoint
    if dist.is_available() and dist.is_initialized():
        from savepoint.distributed import load_checkpoint_ddp as load
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    parts.update(progress=progress, sampler=sampler, **extra)
    try:
        load(path, map_location=map_location, **parts)
    except FileNotFoundError:
        return False
    return True
