"""Incident 01: save in one process, load in another, train on."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.training import (
    Run,
    build,
    generator_draws,
    model_tensors,
    optimizer_tensors,
    train,
)

SAVE = "save_checkpoint(path, model=…, optimizer=…, scheduler=…, epoch=…, loss=…)"
LOAD = "load_checkpoint(path, model=…, optimizer=…, scheduler=…)"


class Ema:
    """An extra with state: a running average. ``greedy`` draws while it loads, as some do."""

    def __init__(self, value: float, greedy: bool = False) -> None:
        self.average = torch.full((3,), value, dtype=torch.float64)
        self.updates, self.greedy = 0, greedy

    def update(self, loss: float) -> None:
        self.average = 0.9 * self.average + 0.1 * loss
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.greedy:
            random.random(), np.random.rand(), torch.rand(1)
        self.average, self.updates = state["average"].clone(), state["updates"]


def _extras(spec: dict[str, Any], value: float) -> dict[str, Any]:
    if not spec.get("extras"):
        return {}
    return {"ema": Ema(value, greedy=True), "scaler": Ema(value / 2), "sampler": None}


def _extra_tensors(extras: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}/{name}": torch.cat([part.average, torch.tensor([float(part.updates)]).double()])
        for name, part in extras.items()
        if part is not None
    }


def _save(context: Context, run: Run, extras: dict[str, Any], path: Any, **said: Any) -> None:
    context.call(
        context.module("checkpoint"),
        "save_checkpoint",
        path,
        model=run.model,
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        epoch=context.args["epoch"],
        loss=float.fromhex(context.args["loss"]),
        **extras,
        said=SAVE,
        **said,
    )


def _after_load(run: Run, extras: dict[str, Any]) -> dict[str, Tensor]:
    return (
        model_tensors(run.model, "loaded/model")
        | optimizer_tensors(run.optimizer, "loaded/optimizer")
        | _extra_tensors(extras, "loaded/extra")
    )


def _train_on(run: Run, extras: dict[str, Any], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Train on to the end; what the weights, extras and generators then are."""
    train(run, x, y)
    for name, part in extras.items():
        if part is not None and name == "ema":
            part.update(0.5)
    end = {f"end/draws/{n}": t for n, t in generator_draws().items()}
    return run.trail | _extra_tensors(extras, "end/extra") | end


@probe
def save(context: Context):
    """(A) Train from a drawn seed, save; or also train on, to see that saving disturbs nothing."""
    spec = context.args["spec"]
    run = build(spec, context.args["seed"])
    extras = _extras(spec, 1.5)
    run.model.train()
    train(run, context.tensors["x"], context.tensors["y"], snapshots=False)
    if extras:
        extras["ema"].update(0.25)
    for name in context.args.get("paths", ["checkpoint.pt"]):
        _save(context, run, extras, Path(name) if context.args.get("pathlike") else name)
    if "x2" not in context.tensors:
        return {"training": run.model.training}
    context.stage("training on after the save")
    tensors = _train_on(run, extras, context.tensors["x2"], context.tensors["y2"])
    if context.args.get("save_again"):
        _save(context, run, extras, context.args["save_again"])
    return {"training": run.model.training}, tensors


@probe
def resume(context: Context):
    """(B) Load into differently initialised objects, train on."""
    spec = context.args["spec"]
    run = build(spec, context.args["other_seed"], other=True)
    extras = _extras(spec, -7.0)
    if context.args.get("used_objects"):  # a roll-back: these have state of their own
        train(run, context.tensors["x"], context.tensors["y"], snapshots=False)
        run.lrs.clear()
    run.model.train(not context.args.get("eval"))
    given = {"model": run.model, "optimizer": run.optimizer, "scheduler": run.scheduler}
    returned = context.call(
        context.module("checkpoint"),
        "load_checkpoint",
        "checkpoint.pt",
        **given,
        **extras,
        said=LOAD,
    )
    facts = {
        "returned": _described(returned),
        "training": run.model.training,
        "linked": _linked(run),
        "requires_grad": [p.requires_grad for p in run.model.parameters()],
        "lr_after_load": [group["lr"] for group in run.optimizer.param_groups],
    }
    tensors = _after_load(run, extras)
    context.stage("training on after load_checkpoint")
    if context.args.get("eval"):
        run.model.eval()
    tensors |= _train_on(run, extras, context.tensors["x"], context.tensors["y"])
    return facts | {"lrs": run.lrs}, tensors


def _linked(run: Run) -> bool:
    held = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    return held <= {id(p) for p in run.model.parameters()}


def _described(returned: Any) -> dict[str, Any]:
    if not isinstance(returned, dict):
        return {"type": type(returned).__name__}
    loss = returned.get("loss")
    return {
        "type": "dict",
        "keys": sorted(map(str, returned)),
        "epoch": returned.get("epoch") if isinstance(returned.get("epoch"), int) else None,
        "loss": loss.hex() if isinstance(loss, float) else repr(loss)[:80],
    }


@probe
def uninterrupted(context: Context):
    """(C) Trusted: the same training, never interrupted."""
    spec = context.args["spec"]
    run = build(spec, context.args["seed"])
    extras = _extras(spec, 1.5)
    run.model.train()
    train(run, context.tensors["x"], context.tensors["y"], snapshots=False)
    if extras:
        extras["ema"].update(0.25)
    tensors = _after_load(run, extras)
    run.lrs.clear()
    run.model.train(not context.args.get("eval"))
    tensors |= _train_on(run, extras, context.tensors["x2"], context.tensors["y2"])
    return {"lrs": run.lrs}, tensors


@probe
def inspect(context: Context):
    """(D) Trusted: what the file holds, opened as ``torch.load`` opens it by default."""
    try:
        saved = torch.load("checkpoint.pt", weights_only=True, map_location="cpu")
    except Exception as error:
        blocked = []
        with contextlib.suppress(Exception):
            blocked = torch.serialization.get_unsafe_globals_in_checkpoint("checkpoint.pt")
        return {"opens": False, "blocked": blocked, "error": type(error).__name__}
    if not isinstance(saved, dict):
        return {"opens": True, "keys": None, "type": type(saved).__name__}
    facts: dict[str, Any] = {
        "opens": True,
        "keys": [str(key) for key in saved],
        "none": [str(key) for key, value in saved.items() if value is None],
        "epoch": saved.get("epoch") if type(saved.get("epoch")) is int else None,
        "loss": saved["loss"].hex() if type(saved.get("loss")) is float else None,
        "loss_type": type(saved.get("loss")).__name__,
        "rng": _described_rng(saved.get("rng_state")),
    }
    tensors: dict[str, Tensor] = {}
    _find_tensors(saved.get("model_state_dict"), "model", tensors)
    _find_tensors(saved.get("optimizer_state_dict"), "optimizer", tensors)
    return facts, tensors


def _find_tensors(value: Any, path: str, found: dict[str, Tensor]) -> None:
    if isinstance(value, Tensor):
        found[path] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            _find_tensors(item, f"{path}/{key}", found)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            _find_tensors(item, f"{path}/{number}", found)


def _described_rng(state: Any) -> dict[str, Any]:
    if not isinstance(state, dict):
        return {"type": type(state).__name__}
    numpy = state.get("numpy")
    keys = numpy[1] if isinstance(numpy, tuple | list) and len(numpy) == 5 else None
    return {
        "type": "dict",
        "keys": sorted(map(str, state)),
        "numpy": type(numpy).__name__,
        "numpy_keys": str(keys.dtype) if isinstance(keys, Tensor) else type(keys).__name__,
    }


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
    _advance(context)
    state = context.call(context.module("checkpoint"), "rng_state", said="rng_state()")
    with contextlib.suppress(Exception):
        torch.save(state, "state.pt")
    return {}, {f"draws/{name}": draw for name, draw in generator_draws().items()}


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
    return {"stored": True, "opens": True, **_described_rng(state)}


@probe
def make_incomplete(context: Context):
    """Trusted: copies of the learner's own file, each lacking one thing, and whole ones."""
    saved = torch.load("checkpoint.pt", weights_only=True, map_location="cpu")
    for name, (key, how) in context.args["variants"].items():
        variant = dict(saved)
        if how == "absent":
            variant.pop(key, None)
        elif how == "none":
            variant[key] = None
        torch.save(variant, f"{name}.pt")
    Path("checkpoint.pt").unlink()
    return {}


@probe
def try_incomplete(context: Context):
    """(B) Load each file into fresh objects; say what came of it, return the model afterwards."""
    module = context.module("checkpoint")
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, asked in context.args["files"].items():
        run = build(context.args["spec"], context.args["other_seed"])
        given = {"optimizer": run.optimizer, "scheduler": run.scheduler}
        given = {part: given[part] for part in asked if part in given}
        try:
            context.call(
                module,
                "load_checkpoint",
                f"{name}.pt",
                model=run.model,
                **given,
                said=f"load_checkpoint(path, model=…{''.join(f', {p}=…' for p in given)})",
            )
            facts[name] = {"raised": None}
        except NotImplementedError:
            raise
        except Exception as error:
            bases = [base.__name__ for base in type(error).__mro__]
            facts[name] = {"raised": type(error).__name__, "bases": bases, "text": str(error)[:500]}
        tensors |= model_tensors(run.model, f"{name}/model")
        draws = {f"{name}/draws/{n}": t for n, t in generator_draws().items()}
        tensors |= draws
        lrs = [group["lr"] for group in run.optimizer.param_groups]
        tensors[f"{name}/lr"] = torch.tensor(lrs, dtype=torch.float64)
    return facts, tensors


@probe
def fresh_objects(context: Context):
    """Trusted: what ``try_incomplete``'s objects are if nothing touches them."""
    run = build(context.args["spec"], context.args["other_seed"])
    tensors = model_tensors(run.model, "model")
    tensors |= {f"draws/{name}": draw for name, draw in generator_draws().items()}
    lrs = [group["lr"] for group in run.optimizer.param_groups]
    tensors["lr"] = torch.tensor(lrs, dtype=torch.float64)
    return {}, tensors


class _Odd:
    """An extra whose state cannot be what a checkpoint needs."""

    def __init__(self, state: Any) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state


@probe
def read_back(context: Context):
    """(A) Save with parts whose state is None, unreadable, or sound; say which saves raised."""
    module = context.module("checkpoint")
    facts: dict[str, Any] = {}
    for name, kind in context.args["saves"].items():
        run = build(context.args["spec"], context.args["seed"])
        state = {"none": None, "unreadable": {"where": Path("x")}, "empty": {}, "zero": {"n": 0}}
        parts: dict[str, Any] = {"optimizer": run.optimizer, "scheduler": run.scheduler}
        if kind == "no scheduler":
            parts["scheduler"] = None
        elif kind == "optimizer none":
            run.optimizer.state_dict = lambda: None
        else:
            parts["extra"] = _Odd(state[kind])
        try:
            context.call(
                module,
                "save_checkpoint",
                f"{name}.pt",
                model=run.model,
                epoch=0,
                loss=0.0,
                **parts,
                said=SAVE,
            )
            facts[name] = {"raised": None}
        except NotImplementedError:
            raise
        except Exception as error:
            bases = [base.__name__ for base in type(error).__mro__]
            facts[name] = {"raised": type(error).__name__, "bases": bases, "text": str(error)[:500]}
    return facts


@probe
def retag(context: Context):
    """Trusted: the learner's own file as a machine with a GPU would have written it."""
    saved = torch.load("checkpoint.pt", weights_only=True, map_location="cpu")
    tag = torch.serialization.location_tag
    torch.serialization.location_tag = lambda storage: "cuda:0"
    try:
        buffer = io.BytesIO()
        torch.save(saved, buffer)
    finally:
        torch.serialization.location_tag = tag
    Path("checkpoint.pt").write_bytes(buffer.getvalue())
    return {}


@probe
def missing_file(context: Context):
    """(B) Load what is not there."""
    run = build(context.args["spec"], context.args["seed"])
    try:
        context.call(
            context.module("checkpoint"),
            "load_checkpoint",
            "nowhere.pt",
            model=run.model,
            said='load_checkpoint("nowhere.pt", model=…)',
        )
        return {"raised": None}
    except NotImplementedError:
        raise
    except Exception as error:
        bases = [base.__name__ for base in type(error).__mro__]
        return {"raised": type(error).__name__, "bases": bases}
