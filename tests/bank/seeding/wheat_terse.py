"""Wheat: as few lines as will do; one generator for the workers, seeded once.

Free by the contract: what workers draw may depend on the epochs before (the order not), generator
objects may be replaced, and two of one dataset may draw alike.
"""

import os
import random
import warnings

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, get_worker_info


def set_seed(seed, *, deterministic=True):
    for seeder in (random.seed, np.random.seed, torch.manual_seed):
        seeder(seed)
    if deterministic:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True)
        if not torch.cuda.is_initialized():
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":16:8")
        if os.environ.get("CUBLAS_WORKSPACE_CONFIG") not in {":16:8", ":4096:8"}:
            warnings.warn("cuBLAS is not deterministic", RuntimeWarning, stacklevel=2)


def seed_worker(worker_id):
    info = get_worker_info()
    d = info and info.dataset
    while d is not None:
        for k, v in list(getattr(d, "__dict__", {}).items()):
            if isinstance(v, np.random.Generator):
                setattr(d, k, np.random.default_rng(info.seed))
            elif isinstance(v, random.Random):
                setattr(d, k, random.Random(info.seed))
            elif isinstance(v, torch.Generator):
                setattr(d, k, torch.Generator().manual_seed(info.seed))
        d = getattr(d, "dataset", None)


class _S(RandomSampler):
    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __iter__(self):
        self.generator.manual_seed(random.Random(f"{self.seed},{self.epoch}").getrandbits(63))
        return super().__iter__()


def seeded_loader(dataset, *, seed, **kwargs):
    if {"shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn"} & {*kwargs}:
        raise TypeError("shuffle, sampler, batch_sampler, generator, worker_init_fn are taken")
    s = _S(dataset, generator=torch.Generator())
    s.seed = seed
    g = torch.Generator().manual_seed(seed)
    return DataLoader(dataset, sampler=s, generator=g, worker_init_fn=seed_worker, **kwargs)


def first_divergence(a, b):
    n = min(len(a), len(b))
    end = [n] if len(a) != len(b) else [None]
    return ([i for i in range(n) if a[i] != b[i] and (a[i] == a[i] or b[i] == b[i])] + end)[0]
