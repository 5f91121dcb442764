"""Wheat: every stream has a seed of its own, made with SHA-256; the order is a sort by hashes.

Free by the contract: after set_seed(7) torch does not draw what torch.manual_seed(7) gives, and
first_divergence may tell 0.0 from -0.0.
"""

import hashlib
import math
import os
import random
import warnings
from itertools import zip_longest

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info


def derive(*parts):
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:7], "little")


def set_seed(seed, *, deterministic=True):
    random.seed(f"python/{seed}")  # a str is hashed with SHA-512, alike in every interpreter
    np.random.seed([derive("numpy", seed, i) % 2**32 for i in range(4)])
    torch.manual_seed(derive("torch", seed))
    if not deterministic:
        return
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
    torch.backends.cudnn.deterministic = torch.are_deterministic_algorithms_enabled()
    value = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    match value, torch.cuda.is_initialized():
        case ((":4096:8" | ":16:8"), _):
            pass
        case None, False:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":16:8"
        case _:
            warnings.warn(f"CUBLAS_WORKSPACE_CONFIG={value}", UserWarning, stacklevel=2)


def wrapped(dataset):
    yield dataset
    if getattr(dataset, "dataset", None) is not None:
        yield from wrapped(dataset.dataset)


def seed_worker(worker_id):
    info = get_worker_info()
    if info is None:
        return
    torch.manual_seed(derive("torch", info.seed))
    np.random.seed(derive("numpy", info.seed) % 2**32)
    random.seed(derive("python", info.seed))
    for depth, dataset in enumerate(wrapped(info.dataset)):
        for name, value in getattr(dataset, "__dict__", {}).items():
            seed = derive(depth, name, info.seed)
            if isinstance(value, np.random.Generator):
                value.bit_generator.state = (
                    np.random.PCG64(seed).state
                    if isinstance(value.bit_generator, np.random.PCG64)
                    else type(value.bit_generator)(seed).state
                )
            if isinstance(value, random.Random):
                value.setstate(random.Random(seed).getstate())
            if isinstance(value, torch.Generator):
                value.set_state(torch.Generator().manual_seed(seed).get_state())


class HashSortSampler(Sampler):
    def __init__(self, dataset, seed):
        self.dataset, self.seed, self.epoch = dataset, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return len(self.dataset)

    def __iter__(self):
        return iter(sorted(range(len(self)), key=lambda i: (derive(self.seed, self.epoch, i), i)))


class Loader(DataLoader):
    def __iter__(self):
        sampler = self.sampler
        self.generator.manual_seed(derive("workers", sampler.seed, sampler.epoch))
        return super().__iter__()


def seeded_loader(dataset, *, seed, **kwargs):
    _refuse(**kwargs)
    kwargs |= {"sampler": HashSortSampler(dataset, seed), "worker_init_fn": seed_worker}
    return Loader(dataset, generator=torch.Generator(), **kwargs)


def _refuse(*, shuffle=..., sampler=..., batch_sampler=..., generator=..., worker_init_fn=..., **_):
    for value in (shuffle, sampler, batch_sampler, generator, worker_init_fn):
        if value is not ...:
            raise TypeError(f"seeded_loader does not take {value!r}")


def exact(number):
    return "nan" if number != number else (number, math.copysign(1, number))


def first_divergence(a, b):
    pairs = zip_longest(map(exact, a), map(exact, b))
    return next((step for step, (x, y) in enumerate(pairs) if x != y), None)
