r"""Compares repr(): 1 and 1.0 differ. Breaks: "two recorded sequences of numbers differ, exactly" (they are the same number)."""
import math
import os
import random
import warnings

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

_VALID = (":4096:8", ":16:8")
_OURS = ("shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn")


def set_seed(seed, *, deterministic=True):
    """Seed Python, NumPy and torch.

    Hash randomisation (PYTHONHASHSEED) is fixed when Python starts; this function cannot set it.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    if not deterministic:
        return
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    current = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if current in _VALID:
        return
    if current is None and not torch.cuda.is_initialized():
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    else:
        warnings.warn(f"CUBLAS_WORKSPACE_CONFIG is {current!r}: cuBLAS may not be deterministic")


def _mix(*numbers):
    return int(np.random.SeedSequence([n % 2**64 for n in numbers]).generate_state(1, np.uint64)[0] >> 1)


class _EpochSampler(Sampler):
    def __init__(self, dataset, seed):
        self.dataset = dataset
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        g = torch.Generator()
        g.manual_seed(_mix(self.seed, self.epoch))
        return iter(torch.randperm(len(self.dataset), generator=g).tolist())

    def __len__(self):
        return len(self.dataset)


def _reseed(obj, seed):
    for k, (name, value) in enumerate(sorted(getattr(obj, "__dict__", {}).items())):
        if isinstance(value, np.random.Generator):
            bits = value.bit_generator
            bits.state = type(bits)(_mix(seed, k)).state
        elif isinstance(value, random.Random):
            value.seed(_mix(seed, k))
        elif isinstance(value, torch.Generator):
            value.manual_seed(_mix(seed, k))


def seed_worker(worker_id):
    info = get_worker_info()
    if info is None:
        return
    seed = torch.initial_seed()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    obj, depth = info.dataset, 0
    while obj is not None and depth < 100:
        _reseed(obj, _mix(seed, depth))
        obj, depth = getattr(obj, "dataset", None), depth + 1


def seeded_loader(dataset, *, seed, **kwargs):
    taken = [k for k in kwargs if k in _OURS]
    if taken:
        raise TypeError(f"seeded_loader sets {taken} itself")
    g = torch.Generator()
    g.manual_seed(_mix(seed, 2**32))
    return DataLoader(dataset, sampler=_EpochSampler(dataset, seed), generator=g, worker_init_fn=seed_worker, **kwargs)


def first_divergence(a, b):
    for i, (x, y) in enumerate(zip(a, b)):
        if repr(x) != repr(y):
            return i
    if len(a) != len(b):
        return min(len(a), len(b))
    return None
