"""Incident 06: a manager saves, is restarted, meets damage; what is then on the disk."""

from __future__ import annotations

import contextlib
import os
import re
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.lr_reset import Ema
from grader.probes.storage_blowup_faults import fault, flip_bit, truncate
from grader.probes.training import (
    Run,
    build,
    generator_draws,
    model_tensors,
    optimizer_tensors,
    train,
)

NAME = re.compile(r"(step|best)-([0-9]+)\.pt")


def metric_of(told: list[Any] | None) -> Any:
    """The metric of a save: a float, or the same in NumPy's or torch's clothes."""
    if told is None:
        return None
    kind, number = told[0], float.fromhex(told[1])
    if kind == "numpy":
        return np.float64(number)
    return torch.tensor([number], dtype=torch.float64) if kind == "tensor" else number


def described(call: Any, *, raw: bool = False) -> dict[str, Any]:
    """What a call returned or raised, and what it warned of. A path is told by its name."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = call()
            kind = "Path" if isinstance(value, Path) else type(value).__name__
            if isinstance(value, str | os.PathLike):
                value = Path(value).name
            elif not raw and value is not None:
                value = repr(value)[:80]
            found: dict[str, Any] = {"raised": None, "value": value, "kind": kind}
        except NotImplementedError:
            raise
        except Exception as error:
            bases = [base.__name__ for base in type(error).__mro__]
            found = {"raised": type(error).__name__, "bases": bases, "text": str(error)[:300]}
    return found | {"warnings": [str(warning.message)[:1000] for warning in caught]}


class Script:
    """Managers, a run, and what is asked of them, event by event."""

    def __init__(self, context: Context) -> None:
        self.context, self.args = context, context.args
        self.module = context.module("storage")
        self.run = build(self.args["spec"], self.args["seed"])
        self.run.model.train()
        if self.args.get("eval_part"):
            self.run.model.layers[2].eval()
        self.extras = {"ema": Ema(1.5)} if self.args.get("extras") else {}
        for name, seconds in self.args.get("times", {}).items():
            os.utime(name, (seconds, seconds))
        self.managers: dict[str, Any] = {}
        self.trained = 0

    def manager(self, directory: str) -> Any:
        if directory not in self.managers:
            options = dict(self.args["managers"][directory])
            if options.get("mirror"):
                options["mirror"] = options["mirror"].replace("{here}", str(Path.cwd()))
            told = ", ".join(f"{key}={value!r}" for key, value in options.items())
            self.managers[directory] = self.context.call(
                self.module,
                "CheckpointManager",
                Path(directory) if self.args.get("pathlike") else directory,
                said=f"CheckpointManager(directory, {told})",
                **options,
            )
        return self.managers[directory]

    def do(self, event: dict[str, Any]) -> dict[str, Any] | None:
        what, directory = event["do"], event.get("in", "run")
        if what == "save":
            return self.save(event, directory)
        if what == "wait":
            time.sleep(event["seconds"])
            return None
        manager = self.manager(directory)
        if what == "make":
            return None
        self.context.stage(f"{what}()")
        return described(getattr(manager, what))

    def save(self, event: dict[str, Any], directory: str) -> dict[str, Any]:
        manager = self.manager(directory)
        if event.get("train", True):
            x, y = self.context.tensors["x"], self.context.tensors["y"]
            here = slice(self.trained % len(x), self.trained % len(x) + 1)
            train(self.run, x[here], y[here], snapshots=False)
            self.trained += 1
        options = {name: event[name] for name in ("step",) if name in event}
        if "metric" in event:
            options["metric"] = metric_of(event["metric"])
        told = "".join(f", {name}={value}" for name, value in options.items())
        self.context.stage(f"save(model=…, optimizer=…, …, epoch={event['epoch']}{told})")

        def call() -> Any:
            with fault(*event.get("fault", [None])):
                return manager.save(
                    model=self.run.model,
                    optimizer=self.run.optimizer,
                    scheduler=None if event.get("no_scheduler") else self.run.scheduler,
                    epoch=event["epoch"],
                    loss=float.fromhex(event.get("loss", "0x1p-1")),
                    **options,
                    **self.extras,
                )

        return described(call)


@probe
def manage(context: Context):
    """Do what the script says. What came of it on the disk is looked at from outside."""
    script = Script(context)
    log = [script.do(event) for event in context.args["script"]]
    if not context.args.get("train_on"):
        return {"log": log}
    context.stage("training on after the saves")
    return {"log": log}, _train_on(script.run, context.tensors)


@probe
def refusals(context: Context):
    """Which arguments a manager refuses, and how."""
    module = context.module("storage")

    def make(options: dict[str, Any]) -> dict[str, Any]:
        def call() -> None:
            context.call(module, "CheckpointManager", "run", **options)

        return described(call)

    return {"log": [make(options) for options in context.args["options"]]}


def _train_on(run: Run, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What there is after the saves, and what the run becomes."""
    found = {
        f"gradient/{name}": parameter.grad.clone()
        for name, parameter in run.model.named_parameters()
        if parameter.grad is not None
    }
    found["modes"] = torch.tensor([module.training for module in run.model.modules()])
    found |= {f"draws/{name}": draw for name, draw in generator_draws().items()}
    if found["modes"].any():
        train(run, tensors["x2"], tensors["y2"], snapshots=False)
    return found | model_tensors(run.model, "end")


@probe
def never_saved(context: Context):
    """(C) Trusted: the same training without a manager; the state at each moment of a save."""
    args, tensors = context.args, context.tensors
    run = build(args["spec"], args["seed"])
    run.model.train()
    if args.get("eval_part"):
        run.model.layers[2].eval()
    found: dict[str, Tensor] = {}
    for number in range(args["steps"]):
        here = slice(number, number + 1)
        train(run, tensors["x"][here], tensors["y"][here], snapshots=False)
        found |= model_tensors(run.model, f"{number}/model")
        found |= optimizer_tensors(run.optimizer, f"{number}/optimizer")
    return {}, found | _train_on(run, tensors)


@probe
def look(context: Context):
    """(D) Trusted: is each checkpoint file whole, and what does it hold?"""
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for path in sorted(Path().rglob("*.pt")):
        name = path.as_posix()
        if not path.is_file():
            facts[name] = {"sound": False}
            continue
        try:
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            saved = torch.load(path, weights_only=True, map_location="cpu")
        except Exception:
            facts[name] = {"sound": False}
            continue
        facts[name] = {"sound": damaged is None, "keys": None}
        if isinstance(saved, dict):
            facts[name] |= _described_file(saved)
            model = saved.get("model_state_dict")
            for key, value in model.items() if isinstance(model, dict) else ():
                if isinstance(value, Tensor):
                    tensors[f"{name}/model/{key}"] = value
            state = saved.get("optimizer_state_dict")
            state = state.get("state") if isinstance(state, dict) else None
            for position, entry in state.items() if isinstance(state, dict) else ():
                for key, value in entry.items() if isinstance(entry, dict) else ():
                    if isinstance(value, Tensor):
                        tensors[f"{name}/optimizer/{position}/{key}"] = value
    return facts, tensors if context.args.get("tensors", True) else {}


def _described_file(saved: dict[Any, Any]) -> dict[str, Any]:
    metric = saved.get("metric")
    found = {
        "keys": [str(key) for key in saved],
        "metric": metric.hex() if type(metric) is float else None,
        "metric_type": type(metric).__name__,
    }
    for key in ("epoch", "step"):
        found[key] = saved.get(key) if type(saved.get(key)) is int else repr(saved.get(key))[:40]
    return found


@probe
def damage(context: Context):
    """Trusted: flip a bit in a file, cut it short, empty it."""
    for name, how in context.args["files"].items():
        path = Path(name)
        if how == "flip":
            flip_bit(path)
        elif how == "cut":
            truncate(path)
        else:
            path.write_bytes(b"")
    return {}


@probe
def other_model(context: Context):
    """Trusted: the learner's own checkpoint, as if the model had had wider layers."""
    path = Path(context.args["file"])
    saved = torch.load(path, weights_only=True, map_location="cpu")
    saved["model_state_dict"] = {
        key: torch.cat([value, value]) if value.ndim else value
        for key, value in saved["model_state_dict"].items()
    }
    torch.save(saved, path)
    return {}


@probe
def load(context: Context):
    """(B) load_latest into other objects; what they then hold."""
    module = context.module("storage")
    manager = context.call(module, "CheckpointManager", "run")
    run = build(context.args["spec"], context.args["seed"], other=True)
    given: dict[str, Any] = {"optimizer": run.optimizer, "scheduler": run.scheduler}
    given |= {"ema": Ema(-7.0)}
    given = {name: given[name] for name in context.args.get("parts", ["optimizer", "scheduler"])}
    asked: list[str] = []

    def here(storage: Any, location: str) -> Any:
        asked.append(location)
        return storage

    options = {"map_location": here} if context.args.get("locate") else {}
    told = "".join(f", {name}=…" for name in [*given, *options])
    context.stage(f"load_latest(model=…{told})")
    found = described(lambda: manager.load_latest(model=run.model, **given, **options), raw=True)
    tensors = model_tensors(run.model, "model")
    if "ema" in given:
        tensors["ema"] = given["ema"].average
    value = found.pop("value", None)
    if isinstance(value, dict):
        found["returned"] = sorted(map(str, value))
        found["epoch"] = value.get("epoch") if isinstance(value.get("epoch"), int) else None
        with contextlib.suppress(TypeError):
            found["path"] = Path(value.get("path")).name
    else:
        found["returned"] = None if value is None else type(value).__name__
    return found | {"asked": len(asked)}, tensors


@probe
def fresh(context: Context):
    """Trusted: the objects of ``load``, untouched."""
    return {}, model_tensors(
        build(context.args["spec"], context.args["seed"], other=True).model, "model"
    )
