"""Incident 02: what a seed covers, asked of one process."""

from __future__ import annotations

import os
import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.seed_gaps_data import Numbered, excuse_stub
from grader.probes.training import generator_draws

REFUSED = ("shuffle", "sampler", "batch_sampler", "generator", "worker_init_fn")


def seed_by_hand(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def named_draws(prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": draw for name, draw in generator_draws().items()}


@probe
def streams(context: Context):
    """Seed, draw, seed again, draw again, in one process; the draws leave Gaussians cached."""
    module, options = context.module("seeding"), context.args["options"]
    tensors: dict[str, Tensor] = {}
    for number, seed in enumerate(context.args["seeds"]):
        said = ", ".join([str(seed), *(f"{name}={value}" for name, value in options.items())])
        context.call(module, "set_seed", seed, said=f"set_seed({said})", **options)
        tensors |= named_draws(str(number))
    return {}, tensors


@probe
def switches(context: Context):
    """set_seed with torch's switches standing as told; where they stand afterwards."""
    before, cudnn = context.args["before"], torch.backends.cudnn
    cudnn.deterministic, cudnn.benchmark = before["cudnn.deterministic"], before["cudnn.benchmark"]
    torch.use_deterministic_algorithms(before["algorithms"], warn_only=before["warn_only"])
    options = context.args["options"]
    said = "".join(f", {name}={value}" for name, value in options.items())
    module = context.module("seeding")
    context.call(module, "set_seed", context.args["seed"], said=f"set_seed(…{said})", **options)
    after = {
        "cudnn.deterministic": cudnn.deterministic,
        "cudnn.benchmark": cudnn.benchmark,
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
    }
    return {"after": after, "refuses": _refuses_nondeterminism()}


def _refuses_nondeterminism() -> bool:
    """Whether an operation that has no deterministic form raises (put_ has none on a CPU)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.zeros(4).put_(torch.tensor([0, 0]), torch.ones(2))
        except RuntimeError:
            return True
    return False


@probe
def environment(context: Context):
    """set_seed in a process whose environment, and whose CUDA, stand as told."""
    os.environ.pop("PYTHONHASHSEED", None)
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if context.args["cublas"] is not None:
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = context.args["cublas"]
    if context.args["started"]:  # before the import: a module may bind the function by name
        torch.cuda.is_initialized = lambda: True
    module, options = context.module("seeding"), context.args["options"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        context.call(module, "set_seed", context.args["seed"], said="set_seed(…)", **options)
    return {
        "cublas": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
        "hash_seed": os.environ.get("PYTHONHASHSEED"),
        "warnings": [str(warning.message)[:300] for warning in caught],
    }


@probe
def orders(context: Context):
    """The samples' order from fresh loaders, each taken through its own plan.

    In a plan a number is an epoch to choose and run; None runs without choosing; "leave" runs two
    batches and leaves the loop.
    """
    module = context.module("seeding")
    excuse_stub(module)
    tensors: dict[str, Tensor] = {}
    for label, (seed, plan) in context.args["loaders"].items():
        dataset, size = Numbered(context.args["length"]), context.args["batch_size"]
        size += 1 if label == "resized" else 0
        said = f"seeded_loader(dataset, seed={seed}, batch_size={size})"
        loader = context.call(
            module, "seeded_loader", dataset, seed=seed, batch_size=size, said=said
        )
        for number, epoch in enumerate(plan):
            if isinstance(epoch, int):
                if not callable(getattr(getattr(loader, "sampler", None), "set_epoch", None)):
                    return {"no_set_epoch": True}, tensors
                context.stage(f"loader.sampler.set_epoch({epoch})")
                loader.sampler.set_epoch(epoch)
            context.stage(f"for batch in {said}")
            order = []
            for seen, batch in enumerate(loader, start=1):
                order += [int(index) for index in batch]
                if epoch == "leave" and seen == 2:
                    break
            tensors[f"{label}/{number}"] = torch.tensor(order)
    return {}, tensors


@probe
def untouched(context: Context):
    """Draw from every global generator around a loader and between its batches."""
    args = context.args
    module = context.module("seeding")
    excuse_stub(module)
    tensors: dict[str, Tensor] = {}
    seed_by_hand(args["start"])
    options = {"batch_size": args["batch_size"], "num_workers": args["num_workers"]}
    loader = context.call(
        module,
        "seeded_loader",
        Numbered(args["length"]),
        seed=args["seed"],
        **options,
        said=f"seeded_loader(dataset, seed={args['seed']}, num_workers={args['num_workers']})",
    )
    tensors |= named_draws("built")
    for epoch in range(args["epochs"]):
        context.stage("for batch in seeded_loader(…)")
        for number, _ in enumerate(loader):
            tensors |= named_draws(f"epoch {epoch}, batch {number}")
        tensors |= named_draws(f"epoch {epoch}, end")
    return {}, tensors


@probe
def without_a_loader(context: Context):
    """Trusted: ``untouched``'s draws where there is no loader at all."""
    args = context.args
    batches = -(-args["length"] // args["batch_size"])
    seed_by_hand(args["start"])
    tensors = named_draws("built")
    for epoch in range(args["epochs"]):
        for number in range(batches):
            tensors |= named_draws(f"epoch {epoch}, batch {number}")
        tensors |= named_draws(f"epoch {epoch}, end")
    return {}, tensors


@probe
def arguments(context: Context):
    """Pass what seeded_loader decides itself, and what it hands on."""
    module = context.module("seeding")
    excuse_stub(module)
    facts: dict[str, Any] = {"refused": {}}
    length, dataset = context.args["length"], Numbered(context.args["length"])
    values = {"None": None, "False": False, "True": True, "an object": object()}
    for name in REFUSED:
        for shown, value in values.items():
            said = f"seeded_loader(dataset, seed=0, {name}={shown})"
            try:
                context.call(module, "seeded_loader", dataset, seed=0, said=said, **{name: value})
                facts["refused"][f"{name}={shown}"] = None
            except NotImplementedError:
                raise
            except Exception as error:
                bases = [base.__name__ for base in type(error).__mro__]
                facts["refused"][f"{name}={shown}"] = bases
    options = {"batch_size": context.args["batch_size"], "drop_last": True}
    loader = context.call(
        module,
        "seeded_loader",
        dataset,
        seed=1,
        collate_fn=sum,
        **options,
        said="seeded_loader(dataset, seed=1, batch_size=…, drop_last=True, collate_fn=sum)",
    )
    facts["is_loader"] = isinstance(loader, torch.utils.data.DataLoader)
    size = context.args["batch_size"]
    said = "seeded_loader(dataset, seed=1, batch_size=…)"
    plain = context.call(module, "seeded_loader", dataset, seed=1, batch_size=size, said=said)
    facts["plain_batches"] = sum(1 for _ in plain)
    facts["batches"] = sum(1 for _ in loader)
    facts["collated"] = all(isinstance(batch, int) for batch in loader)
    listed = context.call(
        module,
        "seeded_loader",
        list(range(length)),
        seed=1,
        batch_size=None,
        said="seeded_loader([0, 1, …], seed=1, batch_size=None)",
    )
    facts["unbatched"] = sorted(int(item) for item in listed) == list(range(length))
    return facts


@probe
def divergence(context: Context):
    """first_divergence on each drawn pair of runs; what it answered."""
    module = context.module("seeding")
    answers: dict[str, Any] = {}
    for name, kind in context.args["pairs"].items():
        runs: Any = [context.tensors[f"{name}/{side}"].tolist() for side in "ab"]
        if kind == "ints and floats":
            runs[0] = [int(x) for x in runs[0]]
        elif "ints" in kind:
            start = 2**53 if kind == "big ints" else 0  # from there a double knows even ones only
            runs = [[start + int(x) for x in run] for run in runs]
        elif kind == "tuples":
            runs = [tuple(run) for run in runs]
        answer = context.call(module, "first_divergence", *runs, said="first_divergence(a, b)")
        answers[name] = _described(answer)
    return {"answers": answers}


def _described(answer: Any) -> Any:
    """None or an int; anything else as words, which equals neither."""
    if answer is None:
        return None
    if isinstance(answer, bool) or not hasattr(answer, "__index__"):
        return f"{type(answer).__name__} {answer!r}"[:80]
    return int(answer)


@probe
def outside_a_worker(context: Context):
    """Draw, call seed_worker in the main process, draw again."""
    seed_by_hand(context.args["start"])
    tensors = named_draws("before")
    module = context.module("seeding")
    context.call(module, "seed_worker", 0, said="seed_worker(0), outside of a worker")
    return {}, tensors | named_draws("after")


@probe
def two_draws(context: Context):
    """Trusted: ``outside_a_worker``'s draws where nothing is called."""
    seed_by_hand(context.args["start"])
    return {}, named_draws("before") | named_draws("after")
