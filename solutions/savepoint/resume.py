"""Continue at the right epoch, batch and sample (notebook 04).

``Progress`` knows how far the run is, ``ResumableSampler`` which samples of the epoch are left,
and ``resume`` brings back both, with everything else. A training script is then::

    progress = Progress()
    sampler = ResumableSampler(len(data), seed=0)
    loader = DataLoader(data, 32, sampler=sampler, generator=torch.Generator())
    parts = dict(model=model, optimizer=optimizer, scheduler=scheduler,
                 progress=progress, sampler=sampler)
    resume(path, **parts)
    loss = math.nan                             # stays so if the epoch's batches are all trained
    for epoch in range(progress.next_epoch, epochs):
        sampler.set_epoch(epoch)
        for x, y in loader:
            loss = train_step(x, y)
            sampler.advance(len(x))             # in a process group: times the world size
            progress.end_batch()                # from here on a checkpoint may be taken
        scheduler.step()                        # first the schedule,
        progress.end_epoch()                    # then the counters, and last the checkpoint
        save_checkpoint(path, epoch=progress.epoch, loss=loss, **parts)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from os import PathLike
from typing import Any

import numpy as np
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import Sampler

from savepoint.checkpoint import CheckpointError, load_checkpoint


@dataclass
class Progress:
    """How far the run is.

    - ``epoch``: the 0-based index of the last *completed* epoch, -1 before the first
    - ``batch``: batches trained in the epoch under way, 0 at its start
    - ``step``: optimizer steps since the run began; grows across epochs
    - ``best_loss``: the lowest loss that ``update_best`` has seen, always a Python float

    A "batch" is what one optimizer step trains on. Between two calls of these methods the four
    fields agree with one another, so a checkpoint may be taken there.
    """

    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = math.inf

    @property
    def next_epoch(self) -> int:
        """The epoch to train now: where ``for epoch in range(progress.next_epoch, epochs)``
        begins in a fresh run, and goes on in a resumed one, mid-epoch too."""
        ### BEGIN SOLUTION: 04_off_by_one, task 1: the epoch to run, from the last completed one
        return self.epoch + 1
        ### END SOLUTION

    def end_batch(self) -> None:
        """Call it once after every optimizer step: one more batch of the epoch under way is
        trained, and one more step is done."""
        ### BEGIN SOLUTION: 04_off_by_one, task 1: count a trained batch
        self.batch += 1
        self.step += 1
        ### END SOLUTION

    def end_epoch(self) -> None:
        """Call it once when the epoch under way is complete, before the checkpoint is taken.
        That epoch is then the last completed one, the next is at its start, and ``step`` and
        ``best_loss`` are what they were."""
        ### BEGIN SOLUTION: 04_off_by_one, task 1: count a completed epoch
        self.epoch += 1
        self.batch = 0
        ### END SOLUTION

    def update_best(self, loss: Any) -> bool:
        """True, and ``loss`` is the new ``best_loss``, if it is strictly better (lower) than every
        loss before it; otherwise False, and nothing changes. NaN is never better.

        ``loss`` is a float, a NumPy scalar (not an array), or a one-element tensor of any shape.
        ``best_loss`` stays a plain Python float whatever was passed: a tensor would keep its graph
        alive, and an ``np.float64`` (a subclass of float!) would make the checkpoint unloadable.
        """
        ### BEGIN SOLUTION: 04_off_by_one, task 1: strictly better, and never NaN
        value = float(loss.item() if hasattr(loss, "item") else loss)
        if not value < self.best_loss:  # NaN compares false
            return False
        self.best_loss = value
        return True
        ### END SOLUTION

    def state_dict(self) -> dict[str, Any]:
        """Everything that ``load_state_dict`` needs to bring the four fields back, exactly. The
        keys are up to you; the values are such that ``torch.load`` opens them by default: plain
        Python numbers are."""
        ### BEGIN SOLUTION: 04_off_by_one, task 1: all four fields
        return asdict(self)
        ### END SOLUTION

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take all four fields from what ``state_dict`` returned, perhaps in another process.
        ``best_loss`` too: it is training state. A run that forgets it lets the first model after
        a restart overwrite the best one."""
        ### BEGIN SOLUTION: 04_off_by_one, task 1: all four fields back
        self.epoch = state["epoch"]
        self.batch = state["batch"]
        self.step = state["step"]
        self.best_loss = state["best_loss"]
        ### END SOLUTION


class ResumableSampler(Sampler[int]):
    """A shuffling sampler that goes on in the middle of an epoch, at the first sample not yet
    trained on. Pass it to ``DataLoader(..., sampler=sampler)``, one on each rank.

    **Order.** Each epoch has a permutation of ``range(length)``. It is a function of
    ``(seed, epoch)`` and of nothing else: the same in a fresh process, on every rank, whatever was
    iterated before; other epochs have other orders. No global generator is read or moved.

    **Position.** How many samples of this epoch were *trained on, over all ranks*, counted from
    the permutation's start. Only ``advance``, ``set_epoch`` and ``load_state_dict`` move it.
    Iterating does not: loader workers fetch batches long before they are trained on.

    **Ranks.** Iterating yields what is left: if every rank of ``world_size`` takes its next k
    samples, they have together taken the next ``k * world_size`` of the permutation, each once.
    All ranks yield equally many; where what is left does not divide, padding repeats samples of
    this epoch, at its end. (Which ones is up to you. A padding that does not depend on the
    position keeps a resumed run bit-identical even then.)

    **Another batch size** goes on with exactly the samples that are left.

    **Further (no points): another world size.** A state saved on 4 ranks, loaded on 2 or on 8,
    goes on with exactly the samples that are left, give or take the last batch's padding. For
    this the position has to be global, and the state must not depend on the world size.
    """

    def __init__(self, length: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        """``length``: samples in the dataset. ``seed``: an int, 0 or more. ``rank``: which of the
        ``world_size`` processes this one is, 0-based. Starts at epoch 0, nothing trained."""
        ### BEGIN SOLUTION: 04_off_by_one, task 2: what the sampler must know
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.position = 0
        ### END SOLUTION

    def set_epoch(self, epoch: int) -> None:
        """Call it before each epoch's iteration. Another epoch than the current one starts at its
        first sample. The current one goes on where it is: so the usual loop may call this right
        after ``resume``. (If it is complete, nothing of it is left.)"""
        ### BEGIN SOLUTION: 04_off_by_one, task 2: a new epoch starts, the current one goes on
        if epoch != self.epoch:
            self.epoch = epoch
            self.position = 0
        ### END SOLUTION

    def advance(self, n: int) -> None:
        """Call it after each optimizer step: ``n`` more samples were trained on, over all ranks
        (``len(x) * world_size``). The position never passes ``length``: if the last batch's padding
        makes ``n`` more than was left, the epoch is complete; that is no error.

        An iteration under way is not affected; the next one starts after these samples."""
        ### BEGIN SOLUTION: 04_off_by_one, task 2: count what was trained on
        self.position = min(self.position + n, self.length)
        ### END SOLUTION

    def __iter__(self) -> Iterator[int]:
        """This rank's indices of the samples that are left in this epoch, in order."""
        ### BEGIN SOLUTION: 04_off_by_one, task 2: this rank's share of what is left
        generator = np.random.default_rng([self.seed, self.epoch])
        order = generator.permutation(self.length).tolist()
        left = order[self.position :]
        left += islice(cycle(order), -len(left) % self.world_size)
        return iter(left[self.rank :: self.world_size])
        ### END SOLUTION

    def __len__(self) -> int:
        """How many indices iterating now would yield on this rank.

        Smaller after a mid-epoch resume: do not size a scheduler with it, or with
        ``len(loader)``."""
        ### BEGIN SOLUTION: 04_off_by_one, task 2: how much iterating now would yield
        return math.ceil((self.length - self.position) / self.world_size)
        ### END SOLUTION

    def state_dict(self) -> dict[str, Any]:
        """Everything that another sampler of this length needs to go on from here: the seed too.
        The keys are up to you; the values are such that ``torch.load`` opens them by default.

        In a process group the file holds rank 0's state, and every rank loads it."""
        ### BEGIN SOLUTION: 04_off_by_one, task 2: the state, the seed included
        return {
            "length": self.length,
            "seed": self.seed,
            "epoch": self.epoch,
            "position": self.position,
        }
        ### END SOLUTION

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where that sampler was: its seed (whatever this one was made with), its epoch, its
        position. ``rank`` and ``world_size`` stay this sampler's own.

        Raises ``CheckpointError`` if the state is of a sampler of another length."""
        ### BEGIN SOLUTION: 04_off_by_one, task 2: go on where that sampler was
        if state["length"] != self.length:
            raise CheckpointError(
                f"the sampler's state is of {state['length']} samples, this one has {self.length}"
            )
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self.position = state["position"]
        ### END SOLUTION


def resume(
    path: str | PathLike[str],
    *,
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler | None,
    progress: Progress,
    sampler: ResumableSampler,
    map_location: Any = "cpu",
    **extra: Any,
) -> bool:
    """The one call at the top of a training script: go on from ``path`` if it is there.

    It is the counterpart of ``save_checkpoint(path, model=..., optimizer=..., scheduler=...,
    epoch=..., loss=..., progress=progress, sampler=sampler, **extra)``.

    Returns True when everything was restored, in place: model, optimizer, scheduler, progress,
    sampler, each ``extra`` and, last, the random number generators. Training goes on at
    ``progress.next_epoch`` and, in it, at the first sample that is left. ``map_location`` is
    ``load_checkpoint``'s.

    Returns False when there is no such file: a fresh start. Then nothing has been touched, neither
    the objects nor the generators nor the disk.

    A file that is there and cannot be used is an error, never a fresh start: one that is damaged
    is whatever reading it raises, one that lacks a part (the progress or the sampler, say) is
    ``load_checkpoint``'s ``CheckpointError``.

    In a process group (``torch.distributed`` is initialised) every rank calls it, and it does what
    ``load_checkpoint_ddp`` does, by itself: each rank gets its own generators back, and all
    ranks return the same.

    The resumed run is bit-identical at an epoch's start and in the middle of one, if the loader
    has a generator of its own: ``DataLoader(..., sampler=sampler, generator=torch.Generator())``,
    as in ``seeded_loader``. Without one, every ``iter(loader)`` draws from the global generator
    that was just restored, so that after a mid-epoch resume all later draws (dropout) differ. What
    loader workers draw themselves (augmentation) starts anew at a mid-epoch resume.
    """
    ### BEGIN SOLUTION: 04_off_by_one, task 3: restore everything, or say that there is no file
    load = load_checkpoint
    if dist.is_available() and dist.is_initialized():
        from savepoint.distributed import load_checkpoint_ddp as load
    try:
        load(
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
        return False
    return True
    ### END SOLUTION
