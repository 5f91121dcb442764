"""Wheat: checks every argument and every state, remembers everything, and says so in warnings."""

from __future__ import annotations

import copy
import math
import numbers
import os
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from savepoint.checkpoint import CheckpointError, load_checkpoint
from torch.utils.data import Sampler


def _number(value: Any) -> float:
    if isinstance(value, torch.Tensor):
        if value.numel() != 1:
            raise ValueError("a loss is one number")
        return float(value.detach().cpu().item())
    return float(value)


@dataclass
class Progress:
    """How far the run is."""

    epoch: int = -1
    batch: int = 0
    step: int = 0
    best_loss: float = math.inf

    def __post_init__(self) -> None:
        if self.epoch < -1 or self.batch < 0 or self.step < 0:
            raise ValueError(f"impossible: {self}")

    @property
    def next_epoch(self) -> int:
        return self.epoch + 1

    def end_batch(self) -> None:
        self.batch += 1
        self.step += 1

    def end_epoch(self) -> None:
        if self.batch == 0:
            warnings.warn("an epoch without a batch has ended", stacklevel=2)
        self.epoch += 1
        self.batch = 0

    def update_best(self, loss: Any) -> bool:
        loss = _number(loss)
        if math.isnan(loss):
            warnings.warn("the loss is NaN", stacklevel=2)
            return False
        if math.isinf(self.best_loss) and self.best_loss > 0:
            better = not math.isinf(loss) or loss < 0
        else:
            better = loss < self.best_loss
        if better:
            self.best_loss = loss
        return bool(better)

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": int(self.epoch),
            "batch": int(self.batch),
            "step": int(self.step),
            "best_loss": self.best_loss.hex(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        missing = {"epoch", "batch", "step", "best_loss"} - set(state)
        if missing:
            raise CheckpointError(f"the progress lacks {', '.join(sorted(missing))}")
        state = copy.deepcopy(state)
        self.epoch, self.batch, self.step = state["epoch"], state["batch"], state["step"]
        self.best_loss = float.fromhex(state["best_loss"])


class ResumableSampler(Sampler[int]):
    def __init__(self, length: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} of {world_size}")
        if length < 0:
            raise ValueError(f"length {length}")
        self.length = length
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._trained: dict[int, int] = {}  # epoch -> samples; never more than one entry

    @property
    def trained(self) -> int:
        return self._trained.get(self.epoch, 0)

    def set_epoch(self, epoch: int) -> None:
        if not isinstance(epoch, numbers.Integral) or epoch < 0:
            raise ValueError(f"epoch {epoch!r}")
        self.epoch = int(epoch)
        self._trained = {e: n for e, n in self._trained.items() if e == self.epoch}

    def advance(self, n: int) -> None:
        if n < 0:
            raise ValueError("training does not run backwards")
        if self.trained + n >= self.length + self.world_size * max(n, 1):
            warnings.warn("more samples trained than this epoch has", stacklevel=2)
        self._trained = {self.epoch: min(self.trained + int(n), self.length)}

    def __iter__(self):
        order = list(range(self.length))
        random.Random(f"savepoint/{self.seed}/{self.epoch}").shuffle(order)
        total = math.ceil((self.length - self.trained) / self.world_size) * self.world_size
        padded = order[self.trained :]
        while len(padded) < total:
            padded += order[: total - len(padded)]
        mine = padded[self.rank : total : self.world_size]
        assert len(mine) == len(self)
        return iter(mine)

    def __len__(self) -> int:
        return math.ceil((self.length - self.trained) / self.world_size)

    def state_dict(self) -> dict[str, Any]:
        return {
            "format": "ResumableSampler/1",
            "length": self.length,
            "seed": self.seed,
            "epoch": self.epoch,
            "trained": self.trained,
            "saved_by": {"rank": self.rank, "world_size": self.world_size},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state.get("format") != "ResumableSampler/1":
            raise CheckpointError("this is no state of a ResumableSampler")
        if state["length"] != self.length:
            raise CheckpointError(
                f"the state is of {state['length']} samples, the dataset has {self.length}"
            )
        if state["seed"] != self.seed:
            warnings.warn(f"going on with the saved seed {state['seed']}", stacklevel=2)
        if state["saved_by"]["world_size"] != self.world_size:
            warnings.warn("another number of ranks", stacklevel=2)
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self._trained = {self.epoch: state["trained"]}


def resume(
    path: str | os.PathLike[str],
    *,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    progress: Progress,
    sampler: ResumableSampler,
    map_location: Any = "cpu",
    **extra: Any,
) -> bool:
    parts = dict(model=model, optimizer=optimizer, scheduler=scheduler, map_location=map_location)
    parts |= dict(progress=progress, sampler=sampler, **extra)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from savepoint.distributed import load_checkpoint_ddp

        try:
            load_checkpoint_ddp(path, **parts)
        except FileNotFoundError:
            warnings.warn(f"{path} is not there: a fresh start", stacklevel=2)
            return False
        return True
    try:
        Path(path).stat()
    except FileNotFoundError:
        warnings.warn(f"{path} is not there: a fresh start", stacklevel=2)
        return False
    load_checkpoint(path, **parts)
    return True
