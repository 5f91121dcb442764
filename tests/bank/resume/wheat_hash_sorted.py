"""Wheat: orders samples by a hash of (seed, epoch, index), deals them to the ranks from the last
to the first, pads with the epoch's last sample, and keeps its state in tensors."""

import dataclasses
import hashlib

import torch
import torch.distributed
from savepoint.checkpoint import CheckpointError, load_checkpoint
from torch.utils.data import Sampler


@dataclasses.dataclass(kw_only=True, slots=True)
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

    def end_epoch(self):
        self.epoch = self.next_epoch
        self.batch = 0

    def update_best(self, loss):
        new = torch.as_tensor(loss, dtype=torch.float64).detach().reshape(())
        if not torch.lt(new, self.best_loss):
            return False
        self.best_loss = new.item()
        return True

    def state_dict(self):
        counters = torch.tensor([self.epoch, self.batch, self.step])
        return {"counters": counters, "best": torch.tensor(self.best_loss, dtype=torch.float64)}

    def load_state_dict(self, state):
        self.epoch, self.batch, self.step = state["counters"].tolist()
        self.best_loss = state["best"].item()


def key(seed, epoch, index):
    return hashlib.blake2b(f"{seed}:{epoch}:{index}".encode()).digest()


class ResumableSampler(Sampler):
    def __init__(self, length, *, seed, rank=0, world_size=1):
        self.numbers = torch.tensor([length, seed, 0, 0])  # length, seed, epoch, position
        self.rank, self.world_size = rank, world_size

    def set_epoch(self, epoch):
        if self.numbers[2] != epoch:
            self.numbers[2:] = torch.tensor([epoch, 0])

    def advance(self, n):
        self.numbers[3] = (self.numbers[3] + n).clamp(max=self.numbers[0])

    def hands(self):
        length, seed, epoch, position = self.numbers.tolist()
        order = sorted(range(length), key=lambda index: key(seed, epoch, index))
        for start in range(position, length, self.world_size):
            hand = order[start : start + self.world_size]
            yield hand + [order[-1]] * (self.world_size - len(hand))

    def __iter__(self):
        return iter([hand[-1 - self.rank] for hand in self.hands()])

    def __len__(self):
        return len(range(int(self.numbers[3]), int(self.numbers[0]), self.world_size))

    def state_dict(self):
        return {"numbers": self.numbers.clone()}

    def load_state_dict(self, state):
        if state["numbers"][0] != self.numbers[0]:
            raise CheckpointError(f"length is {self.numbers[0]}, the state's {state['numbers'][0]}")
        self.numbers = state["numbers"].cpu().clone()


def resume(path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra):
    function = load_checkpoint
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        import savepoint.distributed

        function = savepoint.distributed.load_checkpoint_ddp
    try:
        function(
            path,
            model=model,
            optimizer=optimizer,
            scheduler=scheduler,
            map_location=map_location,
            sampler=sampler,
            progress=progress,
            **extra,
        )
    except FileNotFoundError:
        return False
    return True
