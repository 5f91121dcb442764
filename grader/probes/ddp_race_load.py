"""Incident 03: loads at which ranks must agree, and loads with another number of ranks."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.ddp_race import load, ready, save
from grader.probes.ddp_race_ranks import (
    Group,
    bare,
    build,
    draws,
    seed_generators,
    seed_rank,
    state_tensors,
    two_nodes,
    warmed,
    wrap,
)
from grader.probes.lr_reset import Ema


def _generators() -> dict[str, Any]:
    """The grader's own rng_state."""
    import random

    import numpy as np

    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": [],
    }


@probe
def make_checkpoint(context: Context):
    """Trusted: a file by the contract, as ``ranks`` ranks write it (None: save_checkpoint's).

    Variants of it lack a key, or have it as None; "gpu" is what a machine with one would write;
    in "misfit" a weight has another name.
    """
    args = context.args
    run = warmed(args["spec"], args["seed"])
    states, tensors = [], {}
    for rank in range(args["ranks"] or 1):
        seed_rank(args["seed"], rank)
        states.append(_generators())
        tensors |= draws(f"rank{rank}")
    saved = {
        "epoch": args["epoch"],
        "loss": float.fromhex(args["loss"]),
        "model_state_dict": run.model.state_dict(),
        "optimizer_state_dict": run.optimizer.state_dict(),
        "scheduler_state_dict": run.scheduler.state_dict(),
        "rng_state": states[0],
    }
    if args.get("ema"):
        saved["ema_state_dict"] = Ema(2.5).state_dict()
    if args["ranks"]:
        saved["rng_state_per_rank"] = states
    torch.save(saved, "run.pt")
    for name, (key, how) in args.get("variants", {}).items():
        variant = saved | {key: None}
        if how == "absent":
            del variant[key]
        torch.save(variant, f"{name}.pt")
    names = saved["model_state_dict"]
    misfit = {("output.shift" if n == "output.bias" else n): t for n, t in names.items()}
    torch.save(saved | {"model_state_dict": misfit}, "misfit.pt")
    tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: "cuda:0"
    try:
        torch.save(saved, "gpu.pt")
    finally:
        torch.serialization.location_tag = tag
    return {}, tensors | state_tensors(run, "saved")


@probe
def load_together(context: Context):
    """(B) Load each case in turn, each rank in a directory of its own; what came of it, and
    whether anything has been touched."""
    group = Group(context)
    os.chdir(f"disk-{group.rank}")
    context.module("distributed")
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, case in context.args["cases"].items():
        run = build(context.args["spec"], context.args["other_seed"])
        wrap(run)
        seed_rank(context.args["other_seed"], group.rank)
        extra = {"ema": Ema(0.0)} if case["ema"] else {}
        facts[name] = load(context, case["file"], run, **extra)
        tensors |= state_tensors(run, name) | draws(name)
        if not group.in_step(name, facts[name]):
            break
    os.chdir("..")
    group.meet("done")
    return facts, tensors


@probe
def untouched(context: Context):
    """(C) Trusted: what ``load_together``'s objects are if nothing touches them."""
    tensors: dict[str, Tensor] = {}
    for rank in range(context.args["ranks"]):
        run = build(context.args["spec"], context.args["other_seed"])
        seed_rank(context.args["other_seed"], rank)
        tensors |= state_tensors(run, f"rank{rank}") | draws(f"rank{rank}")
    return {}, tensors


@probe
def load_elsewhere(context: Context):
    """(B) Load each file with this number of ranks, seeded alike; what each then draws."""
    group = Group(context) if context.world_size > 1 else None
    if group:
        two_nodes(context)
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name in context.args["files"]:
        run = build(context.args["spec"], context.args["other_seed"])
        if group:
            wrap(run)
        if "eval" in context.args:  # on half of the ranks
            run.model.train(context.rank % 2 != context.args["eval"])
        seed_generators(context.args["other_seed"])
        ema = Ema(0.0, greedy=True)
        facts[name] = load(context, f"{name}.pt", run, ema=ema)
        facts[name]["training"] = bare(run.model).training
        tensors |= state_tensors(run, name) | draws(name)
        tensors[f"{name}/ema"] = ema.average
        if group:
            group.meet(name)
    return facts, tensors


@probe
def locate(context: Context):
    """(B) Load with a function as map_location; count how often torch.load asks it."""
    run = build(context.args["spec"], context.args["other_seed"])
    asked = []

    def here(storage: Any, location: str) -> Any:
        asked.append(location)
        return storage

    fact = load(context, "run.pt", run, map_location=here)
    return fact | {"asked": len(asked)}


@probe
def fit(context: Context):
    """(B) Load a file whose names are not the model's."""
    group = Group(context)
    run = build(context.args["spec"], context.args["other_seed"])
    wrap(run)
    fact = load(context, "misfit.pt", run)
    group.meet("done")
    return fact


@probe
def save_on_disks(context: Context):
    """(A) Two nodes save, and each rank has a disk of its own."""
    group = Group(context)
    two_nodes(context)
    run = ready(context, group)
    os.chdir(f"disk-{group.rank}")
    fact = save(context, "runs/run.pt", run)
    group.meet("saved")
    os.chdir("..")
    return fact


@probe
def strip(context: Context):
    """Strip prefixes from drawn names; the result, and the argument afterwards."""
    from collections import OrderedDict

    module = context.module("distributed")
    facts: dict[str, Any] = {}
    for name, case in context.args["cases"].items():
        argument = OrderedDict(
            (key, context.tensors["t"] + i) for i, key in enumerate(case["names"])
        )
        if case["metadata"] is not None:
            argument._metadata = OrderedDict(
                (key, {"version": version}) for key, version in case["metadata"]
            )
        prefix = {} if case["prefix"] is None else {"prefix": case["prefix"]}
        said = "strip_prefix(state_dict" + "".join(f", prefix={p!r}" for p in prefix.values()) + ")"
        result = context.call(module, "strip_prefix", argument, said=said, **prefix)
        facts[name] = {"result": _mapping(result), "argument": _mapping(argument)}
    return facts


def _mapping(value: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"type": type(value).__name__}
    with contextlib.suppress(Exception):
        found["names"] = [str(key) for key in value]
        found["values"] = [int(tensor[0]) for tensor in value.values()]
    metadata = getattr(value, "_metadata", None)
    if metadata is not None:
        with contextlib.suppress(Exception):
            found["metadata"] = {str(key): entry["version"] for key, entry in metadata.items()}
    return found
