"""Wrong: puts the model into training mode, file or no file; "False: no file, nothing touched" (and on loading, "the model's train/eval mode is left as it was")."""

import math
import os
from dataclasses import asdict, dataclass

import torch
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, load_checkpoint
from savepoint.distributed import load_checkpoint_ddp
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

    def update_best(self, loss) -> bool:
        loss = float(loss.item() if hasattr(loss, "item") else loss)
        if loss < self.best_loss:
            self.best_loss = loss
            return True
        return False

    def state_dict(self):
        return asdict(self)

    def load_state_dict(self, state):
        self.epoch = int(state["epoch"])
        self.batch = int(state["batch"])
        self.step = int(state["step"])
        self.best_loss = float(state["best_loss"])


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
        generator = torch.Generator()
        generator.manual_seed(self.seed * 1_000_003 + self.epoch)
        return torch.randperm(self.length, generator=generator).tolist()

    def __iter__(self):
        order = self._order()
        left = order[self.position:]
        share = math.ceil(len(left) / self.world_size)
        for i in range(share):
            k = i * self.world_size + self.rank
            yield left[k] if k < len(left) else order[k % self.length]

    def __len__(self):
        return math.ceil((self.length - self.position) / self.world_size)

    def state_dict(self):
        return {"seed": self.seed, "length": self.length, "epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state):
        if state["length"] != self.length:
            raise CheckpointError(f"saved for {state['length']} samples, not {self.length}")
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self.position = state["position"]


def resume(path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra) -> bool:
    """Go on where the file at `path` was saved (True), or start afresh because there is none (False).

    Exact mid-epoch where the loader has a generator of its own, as seeded_loader's has.
    """
    model.train()
    parts = dict(model=model, optimizer=optimizer, scheduler=scheduler, progress=progress, sampler=sampler, **extra)
    if dist.is_available() and dist.is_initialized():
        try:
            load_checkpoint_ddp(path, map_location=map_location, **parts)
        except FileNotFoundError:
            return False
        return True
    if not os.path.exists(path):
        return False
    load_checkpoint(path, map_location=map_location, **parts)
    return True
