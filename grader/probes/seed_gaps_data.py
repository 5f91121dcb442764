"""Incident 02: datasets that report what they draw, and from which worker.

A spawned worker imports this module anew, so it imports little. Items are text: the usual
collation leaves text alone, whatever becomes of a ``collate_fn``.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import random
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info


def excuse_stub(module: ModuleType) -> None:
    """Let a seed_worker that is not written yet stand for one that does nothing.

    seed_worker is a further task, and the core tasks need one that can be called.
    """
    seed_worker = getattr(module, "seed_worker", None)
    name = (getattr(seed_worker, "__module__", ""), getattr(seed_worker, "__qualname__", ""))
    # Anything else is no stub, and could not be found by its name under spawn.
    if not inspect.isfunction(seed_worker) or name != (module.__name__, "seed_worker"):
        return

    def excused(worker_id: int) -> Any:
        try:
            return seed_worker(worker_id)
        except NotImplementedError:
            return None

    module.seed_worker = functools.update_wrapper(excused, seed_worker)


class _Excusing:
    """Unpickled in a spawned worker, it excuses the stub there too."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        excuse_stub(importlib.import_module("savepoint.seeding"))


class Numbered(_Excusing, Dataset[int]):
    """0, 1, 2, …; draws nothing."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        return int(index)


class Drawing(_Excusing, Dataset[str]):
    """Each item draws once from every global generator."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> str:
        worker = get_worker_info()
        row = {"index": int(index), "worker": -1 if worker is None else worker.id}
        return json.dumps(row | self.draws())

    def draws(self) -> dict[str, float]:
        return {
            "random": random.random(),
            "np.random": float(np.random.random_sample()),
            "torch": torch.rand((), dtype=torch.float64).item(),
        }


class Objects(Drawing):
    """Each item draws from generator objects that the dataset carries, one of them private."""

    bits: Any = np.random.PCG64

    def __init__(self, length: int, seed: int, *, with_torch: bool) -> None:
        super().__init__(length)
        self._python = random.Random(seed)
        self.numpy = np.random.Generator(self.bits(seed))
        if with_torch:  # a spawned worker cannot rebuild it: the loader crashes
            self.torch = torch.Generator().manual_seed(seed)

    def draws(self) -> dict[str, float]:
        drawn = {"random.Random": self._python.random(), "np.random.Generator": self.numpy.random()}
        if hasattr(self, "torch"):
            number = torch.rand((), dtype=torch.float64, generator=self.torch)
            drawn["torch.Generator"] = number.item()
        return drawn


class Wrapper(Objects):
    """Generator objects of its own, around a dataset. NumPy's has another kind of state."""

    bits = np.random.SFC64

    def __init__(self, dataset: Any, seed: int, *, with_torch: bool) -> None:
        super().__init__(len(dataset), seed, with_torch=with_torch)
        self.dataset = dataset

    def __getitem__(self, index: int) -> str:
        own = {f"{name} of the wrapper": value for name, value in self.draws().items()}
        return json.dumps(json.loads(self.dataset[index]) | own)
