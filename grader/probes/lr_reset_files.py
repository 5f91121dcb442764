"""Incident 01: files that lack something, come from elsewhere, or are not there."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grader.child import Context, probe
from grader.probes.lr_reset import SAVE, Ema
from grader.probes.training import build, generator_draws, model_tensors


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
        elif how == "without a layer's weight":
            variant[key] = {k: v for k, v in saved[key].items() if k != "layers.4.weight"}
        elif how == "with a layer too many":
            variant[key] = saved[key] | {"layers.40.weight": torch.zeros(2, 2)}
        elif how == "of another shape":
            variant[key] = saved[key] | {"layers.4.weight": torch.zeros(2, 2)}
        elif how == "of a shape that broadcasts":
            weight = saved[key].get("layers.4.weight", torch.zeros(2, 2))
            variant[key] = saved[key] | {"layers.4.weight": weight[:1]}
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
        given = {"optimizer": run.optimizer, "scheduler": run.scheduler, "sampler": Ema(0.0)}
        given = {part: given[part] for part in asked}
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
        elif kind in ("optimizer none", "scheduler none"):
            parts[kind.split()[0]].state_dict = lambda: None
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
def locate(context: Context):
    """(B) Load with a function as map_location, as torch.load allows; say if it was asked."""
    run = build(context.args["spec"], context.args["other_seed"])
    asked = []

    def here(storage: Any, location: str) -> Any:
        asked.append(location)
        return storage

    context.call(
        context.module("checkpoint"),
        "load_checkpoint",
        "checkpoint.pt",
        model=run.model,
        map_location=here,
        said="load_checkpoint(path, model=…, map_location=<a function>)",
    )
    draws = {f"draws/{name}": draw for name, draw in generator_draws().items()}
    return {"asked": len(asked)}, model_tensors(run.model, "model") | draws


@probe
def reload(context: Context):
    """(B) Load a file, let another take its place, load again: what came each time."""
    module = context.module("checkpoint")
    facts: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name in ("first", "second"):
        Path("checkpoint.pt").write_bytes(Path(f"{name}.pt").read_bytes())
        run = build(context.args["spec"], context.args["other_seed"])
        said = 'load_checkpoint("checkpoint.pt", model=…)'
        returned = context.call(
            module, "load_checkpoint", "checkpoint.pt", model=run.model, said=said
        )
        facts[name] = returned.get("epoch") if isinstance(returned, dict) else None
        tensors |= model_tensors(run.model, name)
    return facts, tensors


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
