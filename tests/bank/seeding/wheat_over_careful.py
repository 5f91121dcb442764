"""Wheat: says more, checks more and seeds more than needed; persistent workers start anew.

Free by the contract: a warning about something else, output on both streams, set_seed seeding
every device by name, a loader that starts its workers for each epoch.
"""

import math
import os
import random
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info

_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_DETERMINISTIC_CONFIGS = (":4096:8", ":16:8")


def set_seed(seed: int, *, deterministic: bool = True) -> None:
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an int, not {type(seed).__name__}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), not {seed}")
    print(f"set_seed({seed}, deterministic={deterministic})")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    if not deterministic:
        return
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    if torch.get_num_threads() > 1:
        warnings.warn("another thread count may give other bits", stacklevel=2)
    current = os.environ.get(_CUBLAS)
    if current in _DETERMINISTIC_CONFIGS:
        print(f"{_CUBLAS} is {current} already", file=sys.stderr)
    elif current is not None:
        warnings.warn(f"{_CUBLAS}={current} is not one of {_DETERMINISTIC_CONFIGS}", stacklevel=2)
    elif torch.cuda.is_initialized():
        warnings.warn(f"too late to set {_CUBLAS}: CUDA has started", stacklevel=2)
    else:
        os.environ[_CUBLAS] = _DETERMINISTIC_CONFIGS[0]


def seed_worker(worker_id: int) -> None:
    info = get_worker_info()
    if info is None:
        return
    root = np.random.SeedSequence([info.seed % 2**32, info.seed >> 32])
    words = root.generate_state(4, np.uint32)
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(int(words[2]))
    torch.manual_seed(int(words[3]) << 20 | worker_id)
    seen: set[int] = set()
    dataset: Any = info.dataset
    while dataset is not None and id(dataset) not in seen:
        seen.add(id(dataset))
        attributes = dict(getattr(dataset, "__dict__", {}))
        for name in sorted(attributes):
            value, child = attributes[name], root.spawn(1)[0]
            number = int(child.generate_state(1, np.uint64)[0] >> np.uint64(1))
            if isinstance(value, np.random.Generator):
                setattr(dataset, name, np.random.Generator(type(value.bit_generator)(child)))
            elif isinstance(value, random.Random):
                value.seed(number)
            elif isinstance(value, torch.Generator):
                value.manual_seed(number)
        dataset = getattr(dataset, "dataset", None)


class _EpochSampler(Sampler):
    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed = length, seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        if epoch < 0:
            raise ValueError(f"epoch must not be negative: {epoch}")
        self.epoch = epoch

    def numbers(self) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch])

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        order = self.numbers().permutation(self.length).tolist()
        assert sorted(order) == list(range(self.length))
        return iter(order)


class _EpochLoader(DataLoader):
    def __iter__(self):
        self.generator.manual_seed(int(self.sampler.numbers().integers(2**62)))
        self._iterator = None  # torch seeds a worker only when it starts
        return super().__iter__()


def seeded_loader(dataset: Dataset, *, seed: int, **kwargs: Any) -> DataLoader:
    for name in ("shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn"):
        if name in kwargs:
            raise TypeError(f"seeded_loader() decides {name!r} itself (got {kwargs[name]!r})")
    return _EpochLoader(
        dataset,
        sampler=_EpochSampler(len(dataset), seed),
        generator=torch.Generator(device="cpu"),
        worker_init_fn=seed_worker,
        **kwargs,
    )


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def first_divergence(a: Sequence[float], b: Sequence[float]) -> int | None:
    shorter = min(len(a), len(b))
    for index in range(shorter):
        if _is_nan(a[index]) or _is_nan(b[index]):
            if not (_is_nan(a[index]) and _is_nan(b[index])):
                return index
        elif a[index] != b[index]:
            return index
    if len(a) != len(b):
        return shorter
    return None
