"""Incident 01: save in one process, load in another, train on."""

from __future__ import annotations

import contextlib
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.training import (
    Run,
    build,
    draw_when_loaded,
    generator_draws,
    model_tensors,
    optimizer_tensors,
    set_mode,
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

    # The names in its state are not its attributes'.
    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.average, "n": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.greedy:
            random.random(), np.random.rand(), torch.rand(1)
        self.average, self.updates = state["mean"].clone(), state["n"]


class SizedEma(Ema):
    """An extra that is false where a truth value is asked for, as a sampler is at its epoch's end
    (its len() is 0): only None means none."""

    def __len__(self) -> int:
        return 0


class Disabled:
    """A GradScaler that is switched off: its state is an empty dict, which is a state."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state != {}:
            raise ValueError("a disabled scaler has no state")


def _extras(spec: dict[str, Any], value: float) -> dict[str, Any]:
    if not spec.get("extras"):
        return {}
    return {
        "ema": Ema(value, greedy=True),
        "average": SizedEma(value / 2),
        "scaler": Disabled(),
        "sampler": None,
    }


def _extra_tensors(extras: dict[str, Any], prefix: str) -> dict[str, Tensor]:
    return {
        f"{prefix}/{name}": torch.cat([part.average, torch.tensor([float(part.updates)]).double()])
        for name, part in extras.items()
        if isinstance(part, Ema)
    }


def save_to(context: Context, run: Run, extras: dict[str, Any], path: Any, **said: Any) -> None:
    context.call(
        context.module("checkpoint"),
        "save_checkpoint",
        path,
        model=run.model,
        optimizer=run.optimizer,
        scheduler=run.scheduler,
        epoch=context.args["epoch"],
        # The mean of some losses is a np.float64 as often as not.
        loss=(np.float64 if context.args.get("numpy_loss") else float)(
            float.fromhex(context.args["loss"])
        ),
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
        if name == "ema":
            part.update(0.5)
    end = {f"end/draws/{n}": t for n, t in generator_draws().items()}
    return run.trail | _extra_tensors(extras, "end/extra") | end


@probe
def save(context: Context):
    """(A) Train from a drawn seed, save; or also train on, to see that saving disturbs nothing."""
    spec = context.args["spec"]
    context.module("checkpoint")  # imported before training, as a script does
    run = build(spec, context.args["seed"])
    extras = _extras(spec, 1.5)
    set_mode(run.model, True)
    train(run, context.tensors["x"], context.tensors["y"], snapshots=False)
    if extras:
        extras["ema"].update(0.25)
    set_mode(run.model, not context.args.get("eval"))
    for name in context.args.get("paths", ["checkpoint.pt"]):
        save_to(context, run, extras, Path(name) if context.args.get("pathlike") else name)
    if "x2" not in context.tensors:
        return {"training": run.model.training}
    context.stage("training on after the save")
    tensors = _train_on(run, extras, context.tensors["x2"], context.tensors["y2"])
    if context.args.get("save_again"):
        save_to(context, run, extras, context.args["save_again"])
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
    set_mode(run.model, not context.args.get("eval"))
    draw_when_loaded(run.model)
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
        "grad_scale": [group.get("grad_scale") for group in run.optimizer.param_groups],
    }
    tensors = _after_load(run, extras)
    if not any(facts["requires_grad"]):
        return facts, tensors  # nothing left to train: the judge says so better than autograd
    if context.args.get("resave"):
        save_to(context, run, extras, "checkpoint.pt")
    context.stage("training on after load_checkpoint")
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
    set_mode(run.model, True)
    train(run, context.tensors["x"], context.tensors["y"], snapshots=False)
    if extras:
        extras["ema"].update(0.25)
    tensors = _after_load(run, extras)
    run.lrs.clear()
    set_mode(run.model, not context.args.get("eval"))
    tensors |= _train_on(run, extras, context.tensors["x2"], context.tensors["y2"])
    scales = [group["grad_scale"] for group in run.optimizer.param_groups]
    return {"lrs": run.lrs, "grad_scale": scales}, tensors


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
        "rng": described_rng(saved.get("rng_state")),
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


def described_rng(state: Any) -> dict[str, Any]:
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


@probe
def replay(context: Context):
    """For notebook 01: train, save, start anew, load, train on; what the figure draws."""
    from workbench import digits, fingerprint

    histories, fingerprints = [], []
    for seed in range(context.args["seeds"]):
        history, model = _replayed(context, digits(), seed)
        histories.append(asdict(history))
        fingerprints.append(fingerprint(model))
    return {"histories": histories, "fingerprints": fingerprints}


def _replayed(context: Context, data: Any, seed: int) -> tuple[Any, Any]:
    from workbench import train
    from workbench.moments import seed_generators
    from workbench.runs import EPOCHS, digits_run

    module, cut = context.module("checkpoint"), context.args["cut"]
    parts = digits_run(context.args["optimizer"], seed)
    loss = train(**parts, data=data, epochs=cut, seed=seed).val_loss[-1]
    told = {"epoch": cut - 1, "loss": loss}
    context.call(module, "save_checkpoint", "run.pt", **parts, **told, said=SAVE)

    parts = digits_run(context.args["optimizer"], seed + 100)  # a new script: all else differs
    seed_generators(seed + 200)
    returned = context.call(module, "load_checkpoint", "run.pt", **parts, said=LOAD)
    start = returned["epoch"] + 1
    return train(**parts, data=data, epochs=EPOCHS, start_epoch=start, seed=seed), parts["model"]
