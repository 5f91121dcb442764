"""Wheat: torch's own DistributedSampler with one replica; set_epoch seeds the loader's generator.

Free by the contract: a plain DataLoader; seed 1's epoch 0 may be seed 0's epoch 1; what workers
draw may differ when one epoch is iterated twice; persistent workers go on with their streams.
"""

import os
import random
import warnings

import numpy
import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data.distributed import DistributedSampler


def set_seed(seed, *, deterministic=True):
    torch.manual_seed(seed)
    numpy.random.set_state(numpy.random.RandomState(seed).get_state())
    random.setstate(random.Random(seed).getstate())
    if deterministic:
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.set_deterministic_debug_mode("error")
        workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG", "unset")
        if workspace == "unset" and not torch.cuda.is_initialized():
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        elif workspace not in [":16:8", ":4096:8"]:
            warnings.warn(f"CUBLAS_WORKSPACE_CONFIG is {workspace}", stacklevel=2)


def _objects(dataset):
    found = []
    while dataset is not None:
        found += getattr(dataset, "__dict__", {}).values()
        dataset = getattr(dataset, "dataset", None)
    return found


def seed_worker(worker_id):
    info = get_worker_info()
    for place, item in enumerate(_objects(info.dataset) if info else []):
        seed = (info.seed * 1_000_003 + place) % 2**63
        if isinstance(item, random.Random):
            item.seed(seed)
        elif isinstance(item, torch.Generator):
            item.manual_seed(seed)
        elif isinstance(item, numpy.random.Generator):
            item.bit_generator.state = type(item.bit_generator)(seed).state


class OneReplica(DistributedSampler):
    def __init__(self, dataset, seed):
        super().__init__(dataset, num_replicas=1, rank=0, shuffle=True, seed=seed)
        self.base = torch.Generator().manual_seed(seed)

    def set_epoch(self, epoch):
        super().set_epoch(epoch)
        self.base.manual_seed(self.seed + epoch)


def seeded_loader(dataset, *, seed, **kwargs):
    wrong = [
        name
        for name in kwargs
        if name in ("shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn")
    ]
    if wrong:
        raise TypeError(", ".join(wrong))
    sampler = OneReplica(dataset, seed)
    return DataLoader(
        dataset, sampler=sampler, generator=sampler.base, worker_init_fn=seed_worker, **kwargs
    )


def first_divergence(a, b):
    step = 0
    while step < len(a) and step < len(b):
        if not (a[step] == b[step] or {str(a[step]), str(b[step])} == {"nan"}):
            return step
        step += 1
    return step if len(a) != len(b) else None
