"""Chaff: one generator, seeded once: the order depends on the epochs before.

Task: seeded_loader

Seen when: a fresh process (or a fresh loader) calls set_epoch(5) first and is compared with one
that ran epochs 0 to 4; or one epoch is iterated twice.
"""

import os
import random
import warnings

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, get_worker_info

OURS = {"shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn"}


def mix(*numbers):
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def set_seed(seed, *, deterministic=True):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if not deterministic:
        return
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    config = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    if config is None and not torch.cuda.is_initialized():
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    elif config not in (":4096:8", ":16:8"):
        warnings.warn(f"CUBLAS_WORKSPACE_CONFIG is {config!r}: not deterministic", stacklevel=2)


def seed_worker(worker_id):
    info = get_worker_info()
    if info is None:
        return
    dataset, count = info.dataset, 0
    while dataset is not None:
        for value in getattr(dataset, "__dict__", {}).values():
            count += 1
            seed = mix(info.seed, count)
            if isinstance(value, np.random.Generator):
                value.bit_generator.state = type(value.bit_generator)(seed).state
            elif isinstance(value, random.Random):
                value.seed(seed)
            elif isinstance(value, torch.Generator):
                value.manual_seed(seed)
        dataset = getattr(dataset, "dataset", None)


class EpochSampler(Sampler):
    def __init__(self, length, seed):
        self.length, self.seed, self.epoch = length, seed, 0
        self.generator = torch.Generator().manual_seed(seed)

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(torch.randperm(self.length, generator=self.generator).tolist())


class EpochLoader(DataLoader):
    def __iter__(self):
        self.generator.manual_seed(mix(self.sampler.seed, self.sampler.epoch))
        return super().__iter__()


def seeded_loader(dataset, *, seed, **kwargs):
    if refused := OURS & kwargs.keys():
        raise TypeError(f"decided by seeded_loader: {sorted(refused)}")
    return EpochLoader(
        dataset,
        sampler=EpochSampler(len(dataset), seed),
        generator=torch.Generator(),
        worker_init_fn=seed_worker,
        **kwargs,
    )


def first_divergence(a, b):
    for step, (x, y) in enumerate(zip(a, b)):
        if x != y and not (x != x and y != y):
            return step
    return None if len(a) == len(b) else min(len(a), len(b))
