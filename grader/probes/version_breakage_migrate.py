"""Incident 05: checkpoints of every format, drawn; brought to v3 beside learner code."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals
from torch.torch_version import TorchVersion

from grader.child import Context, probe
from grader.probes.training import (
    Run,
    build,
    generator_draws,
    model_tensors,
    optimizer_tensors,
    train,
)
from grader.probes.version_breakage import leaves, outcome

# What a v2 file needs: NumPy's scalars and arrays, and the type of torch.__version__.
NUMPY = [
    np.dtype,
    np.ndarray,
    type(np.dtype(np.float64)),
    type(np.dtype(np.uint32)),
    np.float64(0).__reduce__()[0],
    np.zeros(1).__reduce__()[0],
    TorchVersion,
]


def open_old(path: str) -> Any:
    """A checkpoint of any format, as its writer would have opened it; nothing else is allowed."""
    with safe_globals(NUMPY):
        return torch.load(path, map_location="cpu", weights_only=True)


def _generators(recipe: dict[str, Any]) -> dict[str, Any]:
    """v2's ``rng``, taken in the middle of things: an odd number of Gaussians, a block begun."""
    random.seed(recipe["seed"])
    np.random.seed(recipe["seed"] % 2**32)
    torch.manual_seed(recipe["seed"])
    random.gauss(0, 1)
    np.random.standard_normal(2 * recipe["drawn"] + 1)
    torch.rand(recipe["drawn"])
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": [torch.randint(0, 256, (16,), dtype=torch.uint8) for _ in range(recipe["cuda"])],
    }


def _trained(recipe: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """States of an optimizer and a schedule that have worked."""
    torch.manual_seed(recipe["seed"])
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    scheduler.step()
    return optimizer.state_dict(), scheduler.state_dict()


def _made(recipe: dict[str, Any], weights: dict[str, Tensor]) -> dict[str, Any]:
    """The checkpoint that a recipe describes. Its ``parts`` are there, and no others."""
    modern = recipe["format"] in ("stamped", "unstamped")
    parts = recipe["parts"]
    made: dict[str, Any] = {"model_state_dict" if modern else "model": weights, **recipe["keep"]}
    if recipe["format"] == "v2":
        made["version"] = 2
    if recipe["format"] == "stamped":
        made["format_version"] = 3
    if "environment" in parts:
        made["environment"] = recipe["environment"]
    optimizer, scheduler = _trained(recipe)
    suffix = "_state_dict" if modern else ""
    if "optimizer" in parts:
        made[f"optimizer{suffix}"] = {} if recipe["falsy"] else optimizer
    if "scheduler" in parts:
        made[f"scheduler{suffix}"] = None if recipe["falsy"] else scheduler
    if "epoch" in parts:
        made["epoch"] = 0 if recipe["falsy"] else recipe["epoch"]
    if "loss" in parts:
        loss = 0.0 if recipe["falsy"] else float.fromhex(recipe["loss"])
        made["loss"] = loss if modern else np.float64(loss)
    if "rng" in parts:
        rng = _generators(recipe)
        made["rng_state" if modern else "rng"] = _modern(rng) if modern else rng
    if "torch" in parts:
        made["torch"] = TorchVersion(recipe["torch"])
    return made


def _modern(rng: dict[str, Any]) -> dict[str, Any]:
    name, keys, *rest = rng["numpy"]
    return {**rng, "numpy": (name, torch.from_numpy(keys.astype(np.int64)), *rest)}


@probe
def write_old(context: Context):
    """Trusted: a file for each drawn recipe, and what it holds."""
    facts = {}
    for label, recipe in context.args["checkpoints"].items():
        weights = {
            name.removeprefix(f"{label}:"): tensor
            for name, tensor in context.tensors.items()
            if name.startswith(f"{label}:")
        }
        made = _made(recipe, weights)
        torch.save(made, f"{label}.pt")
        facts[label] = leaves(made)
    return {"leaves": facts}


def _migrated(context: Context, module: Any, checkpoint: Any, said: str) -> tuple[Any, Any]:
    """(what ``migrate`` returned, what it raised): one of the two is None."""
    try:
        return context.call(module, "migrate", checkpoint, said=said), None
    except NotImplementedError:
        raise
    except Exception as error:
        return None, error


@probe
def bring_up(context: Context):
    """(B) Migrate each file's checkpoint, and store the results as ``new-<label>.pt``."""
    module = context.module("compat")
    facts = {}
    for label in context.args["labels"]:
        new, error = _migrated(context, module, open_old(f"{label}.pt"), "migrate(checkpoint)")
        keys = [str(key) for key in new] if isinstance(new, dict) else []
        facts[label] = outcome(error) | {"keys": keys}
        if error is None:
            with contextlib.suppress(Exception):  # the judge misses the file
                torch.save(new, f"new-{label}.pt")
    return facts


@probe
def inspect_new(context: Context):
    """Trusted: what the results hold, opened as ``torch.load`` opens them by default."""
    facts: dict[str, Any] = {}
    for path in sorted(Path.cwd().glob("new-*.pt")):
        label = path.stem.removeprefix("new-")
        try:
            held = torch.load(path, map_location="cpu", weights_only=True)
            facts[label] = {"opens": True, "leaves": leaves(held)}
        except Exception:
            blocked = []
            with contextlib.suppress(Exception):
                blocked = sorted(get_unsafe_globals_in_checkpoint(path))
            facts[label] = {"opens": False, "blocked": blocked}
    return facts


@probe
def watch(context: Context):
    """(B) Migrate, and again: the argument afterwards, what the generators draw, each result."""
    module = context.module("compat")
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for label, seed in context.args["seeds"].items():
        checkpoint = open_old(f"{label}.pt")
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        new, error = _migrated(context, module, checkpoint, "migrate(checkpoint)")
        tensors |= {f"{label}/{name}": draw for name, draw in generator_draws().items()}
        facts[label] = outcome(error) | {"after": leaves(checkpoint)}
        if error is not None:
            continue
        facts[label]["once"] = leaves(new)
        for name, argument, said in (
            ("twice", new, "migrate(migrate(checkpoint))"),
            ("again", checkpoint, "migrate(checkpoint), a second time"),
        ):
            result, error = _migrated(context, module, argument, said)
            facts[label][name] = outcome(error) | {"leaves": leaves(result)}
    return facts, tensors


@probe
def draws(context: Context):
    """Trusted: what the generators draw when nobody has touched them since they were seeded."""
    tensors: dict[str, Tensor] = {}
    for label, seed in context.args["seeds"].items():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        tensors |= {f"{label}/{name}": draw for name, draw in generator_draws().items()}
    return {}, tensors


@probe
def refuse(context: Context):
    """(B) Migrate what cannot be: each case is a dict without its weights, or a name below."""
    module = context.module("compat")
    odd = {
        "a list": [1, 2],
        "a tensor": torch.ones(3),
        "None": None,
        "a text": "checkpoint.pt",
        "a module": torch.nn.Linear(2, 2),
    }
    where = context.call(module, "environment", said="environment()")
    kinds = {type(item).__name__ for pair in where.items() for item in pair}
    facts: dict[str, Any] = {"environment": sorted(kinds)}
    for label, case in context.args["cases"].items():
        if isinstance(case, str):
            checkpoint = odd[case]
        else:
            weights = {name: tensor.clone() for name, tensor in context.tensors.items()}
            checkpoint = {k: weights if v == "weights" else v for k, v in case.items()}
        _, error = _migrated(context, module, checkpoint, f"migrate({label})")
        facts[label] = outcome(error)
    return facts


def _begun(context: Context) -> Run:
    """A run that has trained on the first batches."""
    run = build(context.args["spec"], context.args["seed"])
    run.model.train()
    train(run, context.tensors["x"], context.tensors["y"], snapshots=False)
    return run


def _gone_on(run: Run, x: Tensor, y: Tensor) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train on: the state at first, after each step, and what the generators draw at the end."""
    tensors = model_tensors(run.model, "loaded/model")
    tensors |= optimizer_tensors(run.optimizer, "loaded/optimizer")
    run.lrs.clear()
    run.model.train()
    train(run, x, y)
    tensors |= run.trail | {f"end/draws/{n}": t for n, t in generator_draws().items()}
    return {"lrs": run.lrs}, tensors


@probe
def train_through(context: Context):
    """Trusted: the same run, never interrupted."""
    return _gone_on(_begun(context), context.tensors["x2"], context.tensors["y2"])


@probe
def train_old(context: Context):
    """Trusted: train, and save what a v2 script saved."""
    run = _begun(context)
    checkpoint = {
        "version": 2,
        "epoch": context.args["epoch"],
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scheduler": run.scheduler.state_dict(),
        "loss": np.mean(run.per_step_loss[-3:]),
        "rng": {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": [torch.full((16,), n, dtype=torch.uint8) for n in context.args["cuda"]],
        },
        "torch": torch.__version__,
    }
    torch.save(checkpoint, "old.pt")
    return {}


@probe
def train_on(context: Context):
    """Trusted: go on from the migrated file, by v3's keys, in differently initialised objects."""
    try:
        saved = torch.load("new-old.pt", map_location="cpu", weights_only=True)
    except Exception:
        blocked = []
        with contextlib.suppress(Exception):
            blocked = sorted(get_unsafe_globals_in_checkpoint("new-old.pt"))
        return {"failed": "open", "blocked": blocked}
    run = build(context.args["spec"], context.args["seed"], other=True)
    part, kind = "", None
    try:
        for part in ("model", "optimizer", "scheduler"):
            getattr(run, part).load_state_dict(saved[f"{part}_state_dict"])
        part, state = "rng_state", saved["rng_state"]
        part = "rng_state, python"
        random.setstate(state["python"])
        part = "rng_state, numpy"
        name, keys, *rest = state["numpy"]
        kind = str(keys.dtype) if isinstance(keys, Tensor) else type(keys).__name__
        np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
        part = "rng_state, torch"
        torch.set_rng_state(state["torch"])
        part = "rng_state, cuda"
        cuda = [tensor.tolist() for tensor in state["cuda"]]
    except Exception as error:
        text = f"{type(error).__name__}: {error}"[:300]
        return {"failed": part, "text": text, "numpy_keys": kind}
    facts, tensors = _gone_on(run, context.tensors["x"], context.tensors["y"])
    return facts | {"failed": None, "numpy_keys": kind, "cuda": cuda}, tensors
