"""Wheat: small classes for everything; NumPy draws the permutation from a Philox generator."""

import os
import random
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils import data


@dataclass(frozen=True)
class Stream:
    """The random numbers that belong to one (seed, epoch)."""

    seed: int
    epoch: int

    def _generator(self, purpose):
        return np.random.Generator(np.random.Philox(key=[purpose, self.seed << 24 | self.epoch]))

    def permutation(self, length):
        return self._generator(0).permutation(length)

    def base_seed(self):
        return int(self._generator(1).integers(2**62))


class Determinism:
    VALID = frozenset({":4096:8", ":16:8"})
    NAME = "CUBLAS_WORKSPACE_CONFIG"

    def enable(self):
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(mode=True, warn_only=False)
        self._cublas()

    def _cublas(self):
        present = os.environ.get(self.NAME)
        if present in self.VALID:
            return
        late = torch.cuda.is_initialized()
        if present is not None or late:
            warnings.warn(f"{self.NAME} was {present!r} (CUDA started: {late})", stacklevel=4)
        if not late:  # an invalid value is replaced, and the warning above says that it was there
            os.environ[self.NAME] = ":4096:8"


def set_seed(seed, *, deterministic=True):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        Determinism().enable()


class WorkerSeeder:
    def __init__(self, info):
        self.seeds = random.Random(info.seed)

    def visit(self, dataset):
        while dataset is not None:
            for value in list(getattr(dataset, "__dict__", {}).values()):
                self.reseed(value)
            dataset = getattr(dataset, "dataset", None)

    def reseed(self, value):
        number = self.seeds.getrandbits(62)
        match value:
            case np.random.Generator():
                value.bit_generator.state = type(value.bit_generator)(number).state
            case random.Random():
                value.seed(number)
            case torch.Generator():
                value.manual_seed(number)


def seed_worker(worker_id):
    info = data.get_worker_info()
    if info is not None:
        WorkerSeeder(info).visit(info.dataset)


class EpochSampler(data.Sampler):
    def __init__(self, source, seed):
        self.source, self.stream = source, Stream(seed, 0)

    def set_epoch(self, epoch):
        self.stream = Stream(self.stream.seed, int(epoch))

    def __len__(self):
        return len(self.source)

    def __iter__(self):
        yield from (int(index) for index in self.stream.permutation(len(self)))


class SeededLoader(data.DataLoader):
    FIXED = ("shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn")

    def __init__(self, dataset, seed, **kwargs):
        for name in self.FIXED:
            if name in kwargs:
                raise TypeError(f"{name} is not yours to choose")
        sampler = EpochSampler(dataset, seed)
        own = {"sampler": sampler, "generator": torch.Generator(), "worker_init_fn": seed_worker}
        super().__init__(dataset, **own, **kwargs)

    def __iter__(self):
        self.generator.manual_seed(self.sampler.stream.base_seed())
        return super().__iter__()


def seeded_loader(dataset, *, seed, **kwargs):
    return SeededLoader(dataset, seed, **kwargs)


class Comparison:
    def __init__(self, a, b):
        self.a, self.b = list(a), list(b)

    def __iter__(self):
        yield from (x == y or (x != x and y != y) for x, y in zip(self.a, self.b))

    def first(self):
        for index, same in enumerate(self):
            if not same:
                return index
        if len(self.a) == len(self.b):
            return None
        return min(len(self.a), len(self.b))


def first_divergence(a, b):
    return Comparison(a, b).first()
