"""Chaff: a float goes through a float32 tensor on its way.
Task: Progress

Seen when: update_best(0.1): best_loss is 0.10000000149, not 0.1, and update_best(0.1) again is
True. Values that float32 holds (0.5) are right.
"""

import os
from dataclasses import dataclass, fields

import numpy as np
import torch
from savepoint import checkpoint
from torch import distributed
from torch.utils.data import Sampler


@dataclass
class Progress:
    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = float("inf")

    @property
    def next_epoch(self) -> int:
        return self.epoch + 1

    def end_batch(self) -> None:
        self.batch, self.step = self.batch + 1, self.step + 1

    def end_epoch(self) -> None:
        self.epoch, self.batch = self.epoch + 1, 0

    def update_best(self, loss) -> bool:
        value = torch.as_tensor(loss).item()
        better = float(loss) < self.best_loss
        if better:
            self.best_loss = value
        return better

    def state_dict(self) -> dict:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def load_state_dict(self, state: dict) -> None:
        for f in fields(self):
            setattr(self, f.name, state[f.name])


class ResumableSampler(Sampler[int]):
    def __init__(self, length: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.n, self.seed = length, seed
        self.rank, self.ranks = rank, world_size
        self.epoch, self.trained = 0, 0

    def set_epoch(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        self.epoch, self.trained = epoch, 0

    def advance(self, n: int) -> None:
        self.trained += n
        if self.trained > self.n:
            self.trained = self.n

    def permutation(self) -> list[int]:
        return np.random.default_rng((self.seed, self.epoch)).permutation(self.n).tolist()

    def __len__(self) -> int:
        return -(-(self.n - self.trained) // self.ranks)

    def __iter__(self):
        order = self.permutation()
        mine = range(self.trained + self.rank, self.trained + len(self) * self.ranks, self.ranks)
        for i in mine:
            yield order[i % self.n]

    def state_dict(self) -> dict:
        return dict(n=self.n, seed=self.seed, epoch=self.epoch, trained=self.trained)

    def load_state_dict(self, state: dict) -> None:
        if state["n"] != self.n:
            raise checkpoint.CheckpointError("this state is of a dataset of another length")
        self.seed, self.epoch, self.trained = state["seed"], state["epoch"], state["trained"]


def resume(
    path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra
) -> bool:
    keywords = dict(
        model=model,
        optimizer=optimizer,
        scheduler=scheduler,
        progress=progress,
        sampler=sampler,
        map_location=map_location,
        **extra,
    )
    if distributed.is_available() and distributed.is_initialized():
        from savepoint.distributed import load_checkpoint_ddp

        try:
            load_checkpoint_ddp(path, **keywords)
        except FileNotFoundError:
            return False
        return True
    if not os.path.lexists(path):
        return False
    checkpoint.load_checkpoint(path, **keywords)
    return True
