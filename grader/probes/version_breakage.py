"""Incident 05: files that trusted code wrote from drawn recipes, read beside learner code."""

from __future__ import annotations

import importlib
import io
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.serialization import (
    get_safe_globals,
    get_unsafe_globals_in_checkpoint,
    safe_globals,
)

from grader.child import Context, probe


def leaves(value: Any, path: str = "") -> dict[str, str]:
    """``path -> type and exact value`` of everything in ``value``; tensors as their bytes in hex.

    Two values have equal leaves if they hold the same, whatever kind of mapping they hold it in.
    """
    if isinstance(value, Mapping):
        found = {} if value else {path: "an empty dict"}
        for key, item in value.items():
            found |= leaves(item, f"{path}/{key if isinstance(key, str) else repr(key)}")
        return found
    if isinstance(value, list | tuple) and not all(type(item) is int for item in value):
        found = {}
        for number, item in enumerate(value):
            found |= leaves(item, f"{path}/{type(value).__name__}[{number}]")
        return found
    return {path: _leaf(value)}


def _leaf(value: Any) -> str:
    kind = type(value).__name__
    if isinstance(value, Tensor):
        about = f"tensor {value.dtype} {tuple(value.shape)}"
        if value.device.type != "cpu":
            return f"{about} on {value.device.type}"
        data = value.detach().contiguous().reshape(-1).view(torch.uint8)
        return f"{about} {data.numpy().tobytes().hex()}"
    if isinstance(value, np.ndarray):
        return f"numpy.ndarray {value.dtype} {value.shape} {value.tobytes().hex()}"
    if type(value) is float:
        return f"float {value.hex()}"
    if value is None or isinstance(value, str | int | float | list | tuple | np.generic):
        return f"{kind} {value!r}"
    return f"{type(value).__module__}.{kind} {vars(value) if hasattr(value, '__dict__') else ''}"


def outcome(error: BaseException | None) -> dict[str, Any]:
    """What came of a call, for the judge to read: the error, and how Python would print it."""
    if error is None:
        return {"raised": None}
    named = getattr(error, "globals", None)
    return {
        "raised": type(error).__name__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "text": str(error)[:20_000],
        "printed": "".join(traceback.format_exception(error))[:60_000],
        "globals_type": type(named).__name__,
        "globals": [str(name) for name in named] if isinstance(named, list) else [],
    }


def class_named(dotted: str) -> type:
    """A class that pickles as ``dotted``, in modules made for it."""
    module, _, name = dotted.rpartition(".")
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        parent = ".".join(parts[:end])
        sys.modules.setdefault(parent, ModuleType(parent))
    found = getattr(sys.modules[module], name, None)
    if found is None:
        found = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, found)
    return found


class _Calls:
    """Unpickled, it is not an object but a call."""

    def __init__(self, dotted: str, arguments: list[str]) -> None:
        module, _, name = dotted.rpartition(".")
        self.call = getattr(importlib.import_module(module), name), tuple(arguments)

    def __reduce__(self) -> tuple[Any, tuple[str, ...]]:
        return self.call


def _content(context: Context, label: str, recipe: dict[str, Any]) -> dict[str, Any]:
    drawn = {
        name.removeprefix(f"{label}/"): tensor
        for name, tensor in context.tensors.items()
        if name.startswith(f"{label}/")
    }
    loss = float.fromhex(recipe["loss"])
    held: dict[str, Any] = {
        "model": drawn,
        "epoch": recipe["epoch"],
        "loss": loss,
        "history": {"rates": [loss, loss / 3, 0.0], "best": (1, None, True), "note": "été"},
    }
    for number, dotted in enumerate(recipe.get("classes", ())):
        thing = class_named(dotted)()
        thing.size = number
        held[f"thing {number}"] = thing
    if recipe.get("numpy"):
        held |= {"best": np.float64(loss), "torch": torch.__version__}
    if recipe.get("scalar"):
        held["best"] = np.float64(loss)
    if "calls" in recipe:
        held["more"] = _Calls(*recipe["calls"])
    return held


@probe
def write(context: Context):
    """Trusted: the drawn files, what each holds, and the globals that safe reading blocks."""
    facts: dict[str, Any] = {"leaves": {}, "blocked": {}}
    tag = torch.serialization.location_tag
    for label, recipe in context.args["files"].items():
        content = _content(context, label, recipe)
        buffer = io.BytesIO()
        if recipe.get("elsewhere"):  # as if its tensors had lain on a device that is not here
            torch.serialization.location_tag = lambda storage: "cuda:0"
        try:
            as_zip = not recipe.get("legacy")
            torch.save(content, buffer, _use_new_zipfile_serialization=as_zip)
        finally:
            torch.serialization.location_tag = tag
        Path(f"{label}.pt").write_bytes(buffer.getvalue())
        facts["leaves"][label] = leaves(content)
        if not recipe.get("legacy"):
            buffer.seek(0)
            facts["blocked"][label] = sorted(get_unsafe_globals_in_checkpoint(buffer))
    return facts


@probe
def read(context: Context):
    """(B) Read files with ``safe_load``; say what each held, or what was raised.

    ``blocks`` is a list of (classes to allow, [(label, path, keyword arguments), …]).
    """
    module = context.module("compat")
    facts: dict[str, Any] = {"read": {}, "came": {}, "allowed": []}
    for allow, reads in context.args["blocks"]:
        with safe_globals([class_named(dotted) for dotted in allow]):
            before = sorted(map(str, get_safe_globals()))
            for label, path, options in reads:
                given = "".join(f", {key}={value!r}" for key, value in options.items())
                said = f"safe_load({path!r}{given})"
                pathlike = Path(path) if context.args.get("pathlike") else path
                error = None
                try:
                    held = context.call(module, "safe_load", pathlike, said=said, **options)
                    facts["read"][label] = leaves(held)
                except NotImplementedError:
                    raise
                except Exception as raised:
                    error = raised
                facts["came"][label] = outcome(error)
            after = sorted(map(str, get_safe_globals()))
        facts["allowed"].append([before, after])
    return facts
