"""Incident 01: the generators' state, taken in one process and put back in another."""

from __future__ import annotations

import contextlib
import random
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.lr_reset import described_rng
from grader.probes.training import generator_draws


def _advance(context: Context) -> None:
    """Move the generators by drawn amounts; NumPy ends with a Gaussian in its cache."""
    seed, counts = context.args["seed"], context.args["counts"]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    for _ in range(counts[0]):
        random.random()
    np.random.randn(2 * counts[1] + 1)
    random.gauss(0, 1)
    torch.rand(counts[2])


@probe
def take_rng(context: Context):
    """(A) Advance the generators, take their state, store it; then draw (taking must not move)."""
    module = context.module("checkpoint")
    context.call(module, "rng_state", said="rng_state()")
    _advance(context)
    state = context.call(module, "rng_state", said="rng_state()")
    draws = {f"draws/{name}": draw for name, draw in generator_draws().items()}
    # A snapshot: neither later draws nor a later call change it.
    context.call(module, "rng_state", said="rng_state()")
    with contextlib.suppress(Exception):
        torch.save(state, "state.pt")
    return {}, draws


@probe
def put_rng(context: Context):
    """(B) In a fresh process: put the stored state back, draw; put it back again, draw again."""
    module = context.module("checkpoint")
    tensors: dict[str, Tensor] = {}
    for number in range(2):
        state = torch.load("state.pt", weights_only=True)
        for _ in range(2 if number else 1):  # the second time the same object is used twice
            context.call(module, "set_rng_state", state, said="set_rng_state(state)")
            draws = generator_draws()
        tensors |= {f"{number}/{name}": draw for name, draw in draws.items()}
    return {}, tensors


@probe
def draw_rng(context: Context):
    """(C) Trusted: what the generators draw after the same advance."""
    _advance(context)
    return {}, {f"draws/{name}": draw for name, draw in generator_draws().items()}


@probe
def inspect_rng(context: Context):
    """(D) Trusted: the stored state, opened by default rules."""
    if not Path("state.pt").exists():
        return {"stored": False}
    try:
        state = torch.load("state.pt", weights_only=True)
    except Exception:
        blocked = []
        with contextlib.suppress(Exception):
            blocked = torch.serialization.get_unsafe_globals_in_checkpoint("state.pt")
        return {"stored": True, "opens": False, "blocked": blocked}
    return {"stored": True, "opens": True, **described_rng(state)}


@probe
def put_rng_of_more_devices(context: Context):
    """(B) Put back a state that holds one CUDA generator more than there are devices."""
    module = context.module("checkpoint")
    state = torch.load("state.pt", weights_only=True)
    state["cuda"] = [*state["cuda"], torch.zeros(16, dtype=torch.uint8)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        context.call(module, "set_rng_state", state, said="set_rng_state(state)")
    return {"warned": len(caught)}, generator_draws()
