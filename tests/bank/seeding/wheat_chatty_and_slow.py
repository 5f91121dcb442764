"""Wheat: prints, writes to stderr, takes half a second, and binds what it needs at import."""

import sys
import time
from os import environ
from random import Random
from random import seed as seed_python
from warnings import warn

from numpy import arange
from numpy import nan as missing
from numpy.random import Generator as NumpyGenerator
from numpy.random import seed as seed_numpy
from torch import Generator, manual_seed, randperm, use_deterministic_algorithms
from torch.backends import cudnn
from torch.cuda import is_initialized
from torch.utils.data import DataLoader, Sampler, get_worker_info


def say(*words):
    print("seeding:", *words)
    print("seeding:", *words, file=sys.stderr)


def set_seed(seed, *, deterministic=True):
    say("seeding everything with", seed)
    time.sleep(0.1)
    seed_python(seed), seed_numpy(seed), manual_seed(seed)
    if deterministic:
        say("and deterministic")
        use_deterministic_algorithms(True)
        cudnn.deterministic = True
        cudnn.benchmark = False
        name = "CUBLAS_WORKSPACE_CONFIG"
        if name not in environ and not is_initialized():
            environ[name] = ":4096:8"
        if environ.get(name) not in (":4096:8", ":16:8"):
            warn(f"{name} cannot be relied on: {environ.get(name)}", stacklevel=2)


def seed_worker(worker_id):
    info = get_worker_info()
    if info is None:
        warn("seed_worker called outside a worker: nothing to do", stacklevel=2)
        return
    say("worker", worker_id, "starts")
    own = Random(info.seed)
    datasets = [info.dataset]
    while (inner := getattr(datasets[-1], "dataset", None)) is not None:
        datasets.append(inner)
    for dataset in reversed(datasets):
        for value in getattr(dataset, "__dict__", {}).values():
            if isinstance(value, NumpyGenerator):
                fresh = type(value.bit_generator)(own.getrandbits(128))
                value.bit_generator.state = fresh.state
            elif isinstance(value, Random):
                value.seed(own.random())
            elif isinstance(value, Generator):
                value.manual_seed(own.getrandbits(60))


class ChattySampler(Sampler):
    def __init__(self, length, seed):
        self.length = length
        self.seed = seed
        self.generator = Generator()
        self.epoch = 0

    def set_epoch(self, epoch):
        say("epoch", epoch)
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __iter__(self):
        say("shuffling", self.length, "samples")
        time.sleep(0.1)
        order = arange(self.length)
        for round_number in range(3):
            self.generator.manual_seed(self.seed + 3 * self.epoch + round_number)
            order = order[randperm(self.length, generator=self.generator).numpy()]
        for index in order:
            yield int(index)


def seeded_loader(dataset, *, seed, **kwargs):
    say("a loader of", len(dataset), "samples")
    taken = kwargs.keys() & {"shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn"}
    if len(taken):
        raise TypeError(f"leave {taken} to seeded_loader")
    sampler = ChattySampler(len(dataset), seed)

    class ChattyLoader(DataLoader):
        def __iter__(self):
            say("iterating")
            self.generator.manual_seed(sampler.seed * 1_000_003 + sampler.epoch)
            return super().__iter__()

    return ChattyLoader(
        dataset, sampler=sampler, generator=Generator(), worker_init_fn=seed_worker, **kwargs
    )


def first_divergence(a, b):
    say("comparing", len(a), "with", len(b), "steps")
    time.sleep(0.1)
    a = ["NaN" if x != x else x for x in a]
    b = ["NaN" if x != x else x for x in b]
    longest = max(len(a), len(b))
    a += [missing] * (longest - len(a))
    b += [missing] * (longest - len(b))
    return next((i for i in range(longest) if a[i] != b[i]), None)
