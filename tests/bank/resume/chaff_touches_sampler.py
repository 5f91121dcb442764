"""Wrong: without a file it puts the sampler at the start of the next epoch; "False: no file, nothing touched"."""

import logging
import os
from dataclasses import dataclass
from typing import Iterator, NamedTuple

import numpy as np
import torch.distributed as dist
from savepoint.checkpoint import CheckpointError, load_checkpoint
from savepoint.distributed import load_checkpoint_ddp
from torch.utils.data import Sampler

log = logging.getLogger(__name__)
NOTHING_YET = float("inf")


def _as_float(loss):
    """A Python float from a float, a NumPy scalar or array of one element, or such a tensor."""
    item = getattr(loss, "item", None)
    return float(item() if callable(item) else loss)


@dataclass
class Progress:
    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = NOTHING_YET

    @property
    def next_epoch(self) -> int:
        return self.epoch + 1

    def end_batch(self):
        self.batch += 1
        self.step += 1
        log.debug("batch %d of epoch %d, step %d", self.batch, self.next_epoch, self.step)

    def end_epoch(self):
        self.epoch += 1
        self.batch = 0
        log.info("epoch %d done after %d steps", self.epoch, self.step)

    def update_best(self, loss) -> bool:
        candidate = _as_float(loss)
        improved = bool(candidate < self.best_loss)
        if improved:
            log.info("best loss: %r, was %r", candidate, self.best_loss)
            self.best_loss = candidate
        return improved

    def state_dict(self):
        return {"epoch": self.epoch, "batch": self.batch, "step": self.step, "best_loss": self.best_loss}

    def load_state_dict(self, state):
        new = Progress(**{k: state[k] for k in ("epoch", "batch", "step", "best_loss")})
        self.epoch, self.batch, self.step, self.best_loss = new.epoch, new.batch, new.step, new.best_loss


class _Place(NamedTuple):
    seed: int
    epoch: int
    done: int

    def order(self, length):
        words = np.random.SeedSequence([self.seed % 2**64, self.epoch])
        return np.random.Generator(np.random.PCG64(words)).permutation(length)


class ResumableSampler(Sampler):
    def __init__(self, length, *, seed, rank=0, world_size=1):
        self.length = length
        self.rank = rank
        self.world_size = world_size
        self.place = _Place(seed, 0, 0)

    def set_epoch(self, epoch):
        if epoch != self.place.epoch:
            self.place = self.place._replace(epoch=epoch, done=0)

    def advance(self, n):
        self.place = self.place._replace(done=min(self.place.done + n, self.length))

    def __len__(self) -> int:
        rounds, over = divmod(self.length - self.place.done, self.world_size)
        return rounds + bool(over)

    def __iter__(self) -> Iterator[int]:
        place = self.place
        order = place.order(self.length)
        left = order[place.done:]
        if len(left) == 0:
            return iter(())
        # np.resize repeats what is left until every rank has as much as the others
        shares = np.resize(left, (len(self), self.world_size))
        return iter(shares[:, self.rank].tolist())

    def state_dict(self):
        return {"length": self.length, **self.place._asdict()}

    def load_state_dict(self, state):
        if state["length"] != self.length:
            raise CheckpointError(f"the sampler's state is one of {state['length']} samples, here are {self.length}")
        self.place = _Place(state["seed"], state["epoch"], state["done"])


def resume(path, *, model, optimizer, scheduler, progress, sampler, map_location="cpu", **extra) -> bool:
    """Restore all of it from `path`, in place.

    False if there is no file. Anything wrong with a file that is there is raised. The resume is exact
    mid-epoch where the loader has a generator of its own (seeded_loader's way).
    """
    parts = {"progress": progress, "sampler": sampler}
    parts.update(extra)
    keywords = dict(model=model, optimizer=optimizer, scheduler=scheduler, map_location=map_location)
    if dist.is_available() and dist.is_initialized():
        return _resume_group(path, keywords, parts)
    return _resume_alone(path, keywords, parts)


def _resume_alone(path, keywords, parts):
    if not os.path.exists(path):
        log.info("no %s: a fresh start", path)
        parts["sampler"].set_epoch(parts["progress"].next_epoch)
        return False
    found = load_checkpoint(path, **keywords, **parts)
    log.info("resumed %s: %s", path, found)
    return True


def _resume_group(path, keywords, parts):
    try:
        found = load_checkpoint_ddp(path, **keywords, **parts)
    except FileNotFoundError:
        log.info("rank %d: no %s", dist.get_rank(), path)
        return False
    log.info("rank %d of %d resumed %s: %s", dist.get_rank(), dist.get_world_size(), path, found)
    return True
