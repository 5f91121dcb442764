"""Wheat: borrows torch's global generator and puts it back before anybody can notice.

Free by the contract: the global generators may move inside a call, if they are where they were
when it returns.
"""

import contextlib
import os
import random
import warnings

import numpy as np
import torch
from torch.utils.data import DataLoader, SequentialSampler, get_worker_info


@contextlib.contextmanager
def borrowed(seed):
    state = torch.get_rng_state()
    try:
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        torch.set_rng_state(state)


def set_seed(seed, *, deterministic=True):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        be_deterministic()


def be_deterministic():
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.use_deterministic_algorithms(True)
    try:
        valid = os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")
    except KeyError:
        valid = not torch.cuda.is_initialized()
        if valid:
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    if not valid:
        warnings.warn("CUBLAS_WORKSPACE_CONFIG is missing or not valid", stacklevel=3)


def seed_worker(worker_id):
    info = get_worker_info()
    if info is None:
        return

    def visit(dataset):
        for key, value in list(getattr(dataset, "__dict__", {}).items()):
            with borrowed(info.seed):
                number = int(torch.randint(2**40, ())) * 4096 + len(key)
            if isinstance(value, (random.Random, np.random.Generator, torch.Generator)):
                reseed(value, number)
        if getattr(dataset, "dataset", None) is not None:
            visit(dataset.dataset)

    visit(info.dataset)


def reseed(generator, number):
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(number).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(number)
    else:
        generator.seed(number)


class BorrowingSampler(SequentialSampler):
    """The order is made in set_epoch, so that iterating only reads it."""

    def __init__(self, dataset, seed):
        super().__init__(dataset)
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch):
        self.number = self.seed + 1_000_003 * epoch
        with borrowed(self.number):
            self.order = torch.randperm(len(self)).tolist()

    def __iter__(self):
        return iter(self.order)


class BorrowingLoader(DataLoader):
    def __iter__(self):
        with borrowed(self.sampler.number):
            return super().__iter__()


def seeded_loader(dataset, *, seed, **kwargs):
    for name in kwargs:
        if name in {"shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn"}:
            raise TypeError(f"seeded_loader() got an unexpected keyword argument {name!r}")
    sampler = BorrowingSampler(dataset, seed)
    return BorrowingLoader(dataset, sampler=sampler, worker_init_fn=seed_worker, **kwargs)


def first_divergence(a, b):
    def recurse(low, high):
        """The first difference in [low, high), both halves looked at, the left one first."""
        if high - low == 1:
            x, y = a[low], b[low]
            return None if x == y or (x != x and y != y) else low
        if high <= low:
            return None
        middle = (low + high) // 2
        left = recurse(low, middle)
        return recurse(middle, high) if left is None else left

    n = min(len(a), len(b))
    found = recurse(0, n)
    return n if found is None and len(a) != len(b) else found
