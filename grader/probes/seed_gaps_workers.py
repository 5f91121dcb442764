"""Incident 02: what real DataLoader workers draw, and in which order samples come from them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from grader.child import Context, probe
from grader.probes.seed_gaps_data import Drawing, Objects, Wrapper, excuse_stub


def table(batches: Iterable[Any]) -> dict[str, Tensor]:
    """Every column of the items that came out, in the order in which they came."""
    rows = [json.loads(item) for batch in batches for item in batch]
    return {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]
    }


def epochs(context: Context, loader: Any, count: int, label: str, said: str) -> dict[str, Tensor]:
    """``count`` epochs of a loader, as ``<label>/<epoch>/<column>``."""
    tensors = {}
    for epoch in range(count):
        if hasattr(loader.sampler, "set_epoch"):
            loader.sampler.set_epoch(epoch)
        context.stage(said)
        columns = table(loader)
        tensors |= {f"{label}/{epoch}/{name}": column for name, column in columns.items()}
    return tensors


@probe
def workers(context: Context):
    """Two workers under each start method that is asked for; and no worker at all."""
    args = context.args
    module = context.module("seeding")
    excuse_stub(module)
    tensors: dict[str, Tensor] = {}
    common = {"seed": args["seed"], "batch_size": args["batch_size"]}
    for method, count in args["methods"].items():
        start, _, persistent = method.partition(", ")
        options: dict[str, Any] = {"num_workers": 2, "multiprocessing_context": start}
        if persistent:
            options["persistent_workers"] = True
        if method == "none":
            options = {"num_workers": 0}
        said = ", ".join(f"{name}={value!r}" for name, value in (common | options).items())
        said = f"seeded_loader(dataset, {said})"
        loader = context.call(
            module, "seeded_loader", Drawing(args["length"]), **common, **options, said=said
        )
        tensors |= epochs(context, loader, count, method, f"for batch in {said}")
    return {}, tensors


@probe
def uses_seed_worker(context: Context):
    """Generator objects under seeded_loader, and under a plain DataLoader with seed_worker."""
    args = context.args
    module = context.module("seeding")
    excuse_stub(module)
    dataset = Objects(args["length"], args["object_seed"], with_torch=args["method"] == "fork")
    options = {
        "batch_size": args["batch_size"],
        "num_workers": 2,
        "multiprocessing_context": args["method"],
    }
    plain = DataLoader(dataset, worker_init_fn=module.seed_worker, **options)
    said = "DataLoader(dataset, num_workers=2, worker_init_fn=seed_worker)"
    tensors = epochs(context, plain, 1, "plain", said)
    said = "seeded_loader(dataset, seed=…, num_workers=2)"
    loader = context.call(module, "seeded_loader", dataset, seed=args["seed"], **options, said=said)
    return {}, tensors | epochs(context, loader, 1, "seeded", f"for batch in {said}")


@probe
def objects(context: Context):
    """What generator objects draw under seed_worker: on a dataset, in and around wrappers."""
    args = context.args
    module = context.module("seeding")
    length, seed, method = args["length"], args["object_seed"], args["method"]
    carries = {"with_torch": method == "fork"}
    inner = Subset(Subset(Objects(length, seed, **carries), range(length)), range(length))
    datasets = {
        "dataset": Objects(length, seed, **carries),
        "Subset": Subset(Objects(length, seed, **carries), range(length)),
        "wrapper": Wrapper(inner, seed + 1, **carries),
        "list": ["{}"] * length,
        "globals": Drawing(length),
    }
    tensors: dict[str, Tensor] = {}
    for name in args["datasets"]:
        loader = DataLoader(
            datasets[name],
            batch_size=args["batch_size"],
            num_workers=2,
            worker_init_fn=module.seed_worker,
            generator=torch.Generator().manual_seed(args["seed"]),
            multiprocessing_context=method,
        )
        said = f"DataLoader(<a {name}>, num_workers=2, worker_init_fn=seed_worker)"
        tensors |= epochs(context, loader, 2, name, f"for batch in {said}")
    return {}, tensors
