"""Incident 01: several CUDA devices, on a machine that has none.

CPU generators stand in for the devices' own: ``torch.cuda``'s functions find two devices and their
generators. What is tested is that each device's state is kept and put back; no CUDA is run.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from grader.child import Context, probe


def _generators(seeds: list[int], counts: list[int]) -> tuple[torch.Generator, ...]:
    """One a device, seeded, and moved on by some draws."""
    made = tuple(torch.Generator().manual_seed(seed) for seed in seeds)
    for generator, count in zip(made, counts, strict=True):
        torch.rand(count, generator=generator)
    return made


def _draws(generators: tuple[torch.Generator, ...], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}/{n}": torch.rand(4, generator=g) for n, g in enumerate(generators)}


def _pretend(generators: tuple[torch.Generator, ...]) -> None:
    current = [0]

    @contextlib.contextmanager
    def device(index: Any) -> Iterator[None]:
        before = current[0]
        set_device(index)
        yield
        current[0] = before

    def set_device(index: Any) -> None:
        current[0] = index if isinstance(index, int) else torch.device(index).index or 0

    stands_in: dict[str, Any] = {
        "device": device,
        "set_device": set_device,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: len(generators),
        "current_device": lambda: current[0],
        "_lazy_init": lambda: None,
        "_lazy_call": lambda call, **_: call(),
    }
    for module in (torch.cuda, torch.cuda.random):
        for name, function in stands_in.items():
            if hasattr(module, name):
                setattr(module, name, function)
    torch.cuda.default_generators = generators


@probe
def two_devices(context: Context):
    """(B) Take the state, put it back, and put back one with a device fewer and one more."""
    seeds, counts, others = (context.args[name] for name in ("seeds", "counts", "others"))
    generators = _generators(seeds, counts)
    _pretend(generators)
    module = context.module("checkpoint")
    where = "with two CUDA devices"
    state = context.call(module, "rng_state", said=f"rng_state() {where}")
    saved = list(state["cuda"])
    tensors = _draws(generators, "taken")
    warned = {}
    for name, cuda in {"same": saved, "fewer": saved[:1], "more": [*saved, saved[0]]}.items():
        for generator, seed in zip(generators, others, strict=True):
            generator.manual_seed(seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            given = {**state, "cuda": list(cuda)}
            said = f"set_rng_state(state of {len(cuda)} devices) {where}"
            context.call(module, "set_rng_state", given, said=said)
        warned[name] = len(caught)
        tensors |= _draws(generators, name)
    return {"warned": warned, "states": len(saved)}, tensors


@probe
def draw(context: Context):
    """(C) Trusted: what the two generators draw."""
    return {}, _draws(_generators(context.args["seeds"], context.args["counts"]), "draws")
