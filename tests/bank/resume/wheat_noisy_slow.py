"""Wheat: prints its progress, warns on stderr, logs, and takes half a second to resume."""

import logging
import sys
import time
from dataclasses import asdict, dataclass

import torch
from savepoint.checkpoint import CheckpointError
from savepoint.checkpoint import load_checkpoint as load
from torch import distributed as dist
from torch.utils.data import Sampler

print("savepoint.resume is here")


@dataclass
class Progress:
    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = float("inf")

    @property
    def next_epoch(self):
        return self.epoch + 1

    def end_batch(self):
        self.batch += 1
        self.step += 1
        print(f"step {self.step}", end="\r")

    def end_epoch(self):
        print(f"epoch {self.next_epoch} done after {self.batch} batches")
        self.epoch += 1
        self.batch = 0

    def update_best(self, loss):
        loss = float(loss)  # warns on stderr if the tensor requires a gradient
        if loss < self.best_loss:
            print(f"new best: {loss}")
            self.best_loss = loss
            return True
        print("no better", file=sys.stderr)
        return False

    state_dict = asdict

    def load_state_dict(self, state):
        self.__init__(**state)


class ResumableSampler(Sampler):
    def __init__(self, length, *, seed, rank=0, world_size=1):
        super().__init__()
        self.length, self.seed, self.rank, self.world_size = length, seed, rank, world_size
        self.key = (0, 0)

    def set_epoch(self, epoch):
        if epoch == self.key[0]:
            logging.info("going on with epoch %d at sample %d", *self.key)
        else:
            self.key = (epoch, 0)

    def advance(self, n):
        epoch, position = self.key
        self.key = (epoch, min(position + n, self.length))

    def __iter__(self):
        epoch, position = self.key
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.length, generator=generator)
        pad = -(self.length - position) % self.world_size
        padding = order.repeat(self.world_size)[:pad]
        mine = torch.cat([order[position:], padding]).view(-1, self.world_size)[:, self.rank]
        print(f"rank {self.rank}: {len(mine)} samples left in epoch {epoch}")
        yield from mine.tolist()

    def __len__(self):
        return (self.length - self.key[1] + self.world_size - 1) // self.world_size

    def state_dict(self):
        return {"length": self.length, "seed": self.seed, "key": self.key}

    def load_state_dict(self, state):
        if state["length"] != self.length:
            print("wrong dataset?", file=sys.stderr)
            raise CheckpointError("the dataset has another length now")
        self.seed, self.key = state["seed"], tuple(state["key"])


def resume(path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra):
    print(f"looking for {path} ...", file=sys.stderr)
    time.sleep(0.1)
    function = load
    if dist.is_initialized():
        from savepoint.distributed import load_checkpoint_ddp as function
    try:
        where = function(
            path,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            map_location=map_location,
            progress=progress,
            sampler=sampler,
            **extra,
        )
    except FileNotFoundError:
        logging.warning("nothing there: from the start")
        return False
    print(f"resumed: {where}, {progress}")
    return True
