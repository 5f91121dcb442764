"""Wheat: loads the file itself, with torch.load bound at import; a sampler that cuts a cached
permutation; a Progress that keeps its fields in one record."""

from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, set_rng_state
from torch import Generator, load, randperm
from torch.utils.data import Sampler

FIELDS = ("epoch", "batch", "step", "best_loss")


@dataclass
class Progress:
    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = float("inf")

    @property
    def next_epoch(self):
        return self.epoch + 1

    def move(self, **by):
        for name, n in by.items():
            setattr(self, name, getattr(self, name) + n)

    def end_batch(self):
        self.move(batch=1, step=1)

    def end_epoch(self):
        self.move(epoch=1, batch=-self.batch)

    def update_best(self, loss):
        candidates = sorted(x for x in (self.best_loss, float(loss)) if x == x)
        better = candidates[0] != self.best_loss
        self.best_loss = candidates[0]
        return better

    def state_dict(self):
        return {"record": [getattr(self, name) for name in FIELDS]}

    def load_state_dict(self, state):
        for name, value in zip(FIELDS, state["record"], strict=True):
            setattr(self, name, value)


@lru_cache(maxsize=2)
def permutation(length, seed, epoch):
    generator = Generator()
    generator.manual_seed((seed << 20) ^ epoch)
    return tuple(randperm(length, generator=generator).tolist())


class ResumableSampler(Sampler[int]):
    def __init__(self, length, *, seed, rank=0, world_size=1):
        self.length, self.seed = length, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = 0
        self.trained = 0

    def set_epoch(self, epoch):
        self.trained = self.trained if epoch == self.epoch else 0
        self.epoch = epoch

    def advance(self, n):
        for _ in range(n):
            if self.trained < self.length:
                self.trained += 1

    def __iter__(self):
        order = permutation(self.length, self.seed, self.epoch)
        queue = deque(order[self.trained :])
        while queue:
            turn = [queue.popleft() for _ in range(min(self.world_size, len(queue)))]
            # An incomplete turn: everybody without a sample repeats the turn's first one.
            yield turn[self.rank] if self.rank < len(turn) else turn[0]

    def __len__(self):
        left, count = self.length - self.trained, 0
        while left > 0:
            left, count = left - self.world_size, count + 1
        return count

    def state_dict(self):
        return {"at": f"{self.seed} {self.epoch} {self.trained} of {self.length}"}

    def load_state_dict(self, state):
        at, length = state["at"].split(" of ")
        if int(length) != self.length:
            raise CheckpointError(f"made for {length} samples")
        self.seed, self.epoch, self.trained = map(int, at.split())


def resume(path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra):
    parts = dict(model=model, optimizer=optimizer, scheduler=scheduler)
    parts.update(extra, progress=progress, sampler=sampler)
    if dist.is_available() and dist.is_initialized():
        from savepoint.distributed import load_checkpoint_ddp

        try:
            load_checkpoint_ddp(path, map_location=map_location, **parts)
            return True
        except FileNotFoundError:
            return False

    if not Path(path).exists():
        return False
    saved = load(path, map_location=map_location)
    if not isinstance(saved, dict):
        raise CheckpointError(f"{path} holds no checkpoint")
    parts = {f"{name}_state_dict": part for name, part in parts.items() if part is not None}
    missing = {key for key in (*parts, "epoch", "loss", "rng_state") if saved.get(key) is None}
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}")
    for key, part in parts.items():
        part.load_state_dict(saved[key])
    set_rng_state(saved["rng_state"])
    return True
