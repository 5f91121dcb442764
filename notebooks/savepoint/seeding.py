"""The same seed, the same run (notebook 02).

A seed covers what draws from the generators it was given to, and nothing else. This module seeds
the global ones, gives the data loader a generator of its own, and finds the first step at which
two runs part.
"""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset


def set_seed(seed: int, *, deterministic: bool = True) -> None:
    """Seed every global generator that a training run draws from.

    ``seed`` is an int from 0 to 2**32 - 1. After the call Python's ``random``, NumPy's legacy
    global generator (``np.random.rand()`` and its like) and torch on every device draw what they
    draw after any other ``set_seed(seed)``, in this process or in another one; another seed gives
    other numbers. Which numbers is up to you: each library may get the seed itself, or one made
    from it. Calling it again starts all streams again.

    With ``deterministic=True`` also:

    - ``torch.backends.cudnn.deterministic`` is True and ``torch.backends.cudnn.benchmark`` False;
    - ``torch.use_deterministic_algorithms(True)``: an operation that has no deterministic form
      raises an error (it does not merely warn);
    - the environment variable ``CUBLAS_WORKSPACE_CONFIG``, without which matrix products on a GPU
      then raise an error, is set to one of its two deterministic values, ``:4096:8`` or ``:16:8``.
      One that is already set to either stays. If it is not set and CUDA has already started (see
      ``torch.cuda.is_initialized``) it is too late: it stays unset, and ``warnings.warn`` says so.
      If it is set to anything else, ``warnings.warn`` says so; whether you then also replace it is
      up to you.

    With ``deterministic=False`` all of these stay as they are, whether on or off.

    Not covered: hash randomisation, which decides the order of a set of strings. It is fixed when
    the interpreter starts. Setting ``PYTHONHASHSEED`` from inside has no effect on this process, so
    ``set_seed`` leaves it alone and does not warn about it; iterate over ``sorted(...)`` instead.
    """
    raise NotImplementedError("02_seed_gaps, task 1: seed every generator a training run draws from")


def seed_worker(worker_id: int) -> None:
    """A ``worker_init_fn``: give each DataLoader worker random streams of its own.

    It runs in the worker, before the first sample. What it must see to:

    - the worker's global generators (Python, NumPy, torch): torch seeds them by itself, from the
      loader's base seed and the worker's number. An empty body (``return``) is therefore already
      right here, and enough for the core tasks. Do not make it worse.
    - Further (no points): generator objects that the dataset carries, which every worker gets a
      copy of: ``numpy.random.Generator`` (over any bit generator), ``random.Random`` and
      ``torch.Generator`` that are instance attributes (in ``vars(dataset)``, whatever their name)
      of the dataset, of the dataset inside it when it is a ``Subset`` or another wrapper with a
      ``.dataset``, and so on inwards. Each may be seeded in place or replaced. (Instances of
      subclasses may be left as they are.)

    Afterwards every stream is different in each worker and in each epoch, and the same in each
    run. A dataset may be any object that can be indexed, a list too.

    Outside a worker it changes nothing.
    """
    raise NotImplementedError("02_seed_gaps, further: seed the generator objects that a dataset carries")


def seeded_loader(dataset: Dataset[Any], *, seed: int, **kwargs: Any) -> DataLoader[Any]:
    """A DataLoader that shuffles in an order that only the seed and the epoch decide.

    ``dataset`` is map-style (it has a length and can be indexed); ``seed`` is an int from 0 to
    2**32 - 1. ``kwargs`` are DataLoader's own (``batch_size``, ``num_workers``, ``drop_last``,
    ``collate_fn``, ...) and mean what they mean there. Five of them are decided here: ``shuffle``,
    ``sampler``, ``batch_sampler``, ``generator`` and ``worker_init_fn`` raise a ``TypeError`` from
    this call, whatever their value, ``False`` and ``None`` too.

    - **The order**: each epoch is a permutation of the dataset, a function of (seed, epoch) and
      of nothing else: not of the epochs that came before, nor of a loop left early, nor of
      ``num_workers``, nor of the process. Other epochs and other seeds have other orders. (A trap:
      torch's CPU generator uses only the low 32 bits of its seed.)
      ``loader.sampler.set_epoch(epoch)``, called before iterating, chooses the epoch (0, 1, ...),
      as with ``DistributedSampler``. The choice stays until the next call: iterating twice gives
      the same order twice. Before the first call it is epoch 0.
    - **The global generators** (Python, NumPy, torch) of the calling process are where they were:
      after building the loader, and between any two batches. (What the dataset itself draws is its
      own affair.) Note that a DataLoader draws a base seed for its workers each time it is
      iterated, even with ``num_workers=0``.
    - **Workers**: any number, under fork, spawn and forkserver, each seeded with ``seed_worker``
      (which must therefore not raise: ``return`` will do until you write it). What they draw is
      different in each worker and in each epoch, and the same in each run from the first epoch.
      Better still, and not asked for: epoch 5's workers draw the same in a fresh process that
      starts at epoch 5, also with ``persistent_workers=True`` (torch seeds a worker once, when it
      starts). Then a run with random augmentation resumes bit for bit.
    """
    raise NotImplementedError("02_seed_gaps, task 2: a loader whose order only seed and epoch decide")


def first_divergence(a: Sequence[float], b: Sequence[float]) -> int | None:
    """The first step at which two recorded runs differ, or None if they never do.

    ``a`` and ``b`` are lists or tuples of Python numbers (floats or ints), one a step: the losses
    of two runs, say. Returns the 0-based index of the first step whose numbers are not exactly
    equal: there is no tolerance, one unit in the last place of a double is a difference, and a
    difference counts even if the runs agree again later. NaN equals NaN and nothing else; infinity
    equals itself. (Whether 0.0 and -0.0 differ is left to you.)

    Where one run ends early and they agree until then, it is the length of the shorter one. Two
    empty runs do not differ.
    """
    raise NotImplementedError("02_seed_gaps, task 3: the first step at which two runs differ, exactly")
