"""Wheat: vectorised comparison, argsort of random keys, and a generator property in the loader.

Free by the contract: any permutation will do, the indices may be NumPy integers, and the workers'
global generators may be left to torch.
"""

import os
import random
import warnings

import numpy as np
import torch
import torch.utils.data as tud


def set_seed(seed, *, deterministic=True):
    words = np.random.SeedSequence(seed).spawn(3)
    random.seed(int.from_bytes(words[0].generate_state(8).tobytes(), "little"))
    np.random.seed(words[1].generate_state(16))
    torch.manual_seed(int(words[2].generate_state(1, np.uint64)[0]))
    if not deterministic:
        return
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    torch.use_deterministic_algorithms(True)
    value = os.getenv("CUBLAS_WORKSPACE_CONFIG")
    if value in (":4096:8", ":16:8"):
        return
    if value is None and not torch.cuda.is_initialized():
        os.environ.update(CUBLAS_WORKSPACE_CONFIG=":16:8")
        return
    warnings.warn(f"CUBLAS_WORKSPACE_CONFIG={value}: results may vary", stacklevel=2)


KINDS = {
    np.random.Generator: lambda g, s: setattr(
        g.bit_generator, "state", type(g.bit_generator)(s).state
    ),
    random.Random: lambda g, s: g.seed(s),
    torch.Generator: lambda g, s: g.manual_seed(s),
}


def seed_worker(worker_id):
    info = tud.get_worker_info()
    layer = None if info is None else info.dataset
    salt = 0
    while layer is not None:
        for value in (layer.__dict__ if hasattr(layer, "__dict__") else {}).values():
            for kind, reseed in KINDS.items():
                if isinstance(value, kind):
                    salt += 1
                    reseed(value, info.seed ^ (salt << 48))
        layer = layer.dataset if hasattr(layer, "dataset") else None


class Shuffled(tud.Sampler):
    def __init__(self, n, seed):
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.n

    def __iter__(self):
        keys = np.random.Generator(np.random.SFC64([self.epoch, self.seed])).random(self.n)
        return iter(np.argsort(keys, kind="stable"))


class Seeded(tud.DataLoader):
    @property
    def generator(self):
        # DataLoader asks for it whenever it needs a base seed: the epoch's, each time.
        return torch.Generator().manual_seed(self.sampler.epoch * 999_983 + self.sampler.seed)

    @generator.setter
    def generator(self, value):
        pass


def seeded_loader(dataset, *, seed, **kwargs):
    if any(k in kwargs for k in "shuffle sampler batch_sampler generator worker_init_fn".split()):
        raise TypeError("seeded_loader chooses the order itself")
    return Seeded(
        dataset, sampler=Shuffled(len(dataset), seed), worker_init_fn=seed_worker, **kwargs
    )


def first_divergence(a, b):
    n = min(len(a), len(b))
    x, y = np.empty(n, object), np.empty(n, object)
    x[:], y[:] = a[:n], b[:n]
    differ = np.flatnonzero((x != y) & ~((x != x) & (y != y)))
    if differ.size:
        return int(differ[0])
    return n if len(a) != len(b) else None
