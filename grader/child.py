"""What happens inside a probe's process: learner code, called by a probe, watched by nobody.

Everything this process says is a claim. It is started with drawn inputs and no expected value;
what it returns is compared elsewhere.
"""

from __future__ import annotations

import copy
import importlib
import linecache
import os
import random
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

from grader import wire

_ALSO_NUMPY = (torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool)
PROBES: dict[str, Callable[..., Any]] = {}


def probe(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register ``function`` as the probe ``<incident>.<name>``, by its module's name."""
    PROBES[f"{function.__module__.rsplit('.', 1)[1]}.{function.__name__}"] = function
    return function


class Context:
    """What a probe is given: its drawn inputs, the learner's package, a way to report."""

    def __init__(self, request: Mapping[str, Any], blobs: Mapping[str, bytes], out: BinaryIO):
        self.args: dict[str, Any] = dict(request.get("args", {}))
        self.rank = int(request.get("rank", 0))
        self.world_size = int(request.get("world_size", 1))
        self.tensors: dict[str, Tensor] = (
            tensors_from_bytes(blobs["tensors"]) if "tensors" in blobs else {}
        )
        self.package = request.get("savepoint")
        self._out = out
        self._stage = ""

    def part(self, name: str, args: Mapping[str, Any]) -> Context:
        """The same process for another run: its ``args``, and the tensors under ``name/``."""
        part = copy.copy(self)
        part.args = dict(args)
        part.tensors = {
            key.removeprefix(f"{name}/"): tensor
            for key, tensor in self.tensors.items()
            if key.startswith(f"{name}/")
        }
        return part

    def stage(self, text: str) -> None:
        """Say what is about to be called, for the message if it never comes back."""
        self._stage = text
        wire.send(self._out, {"stage": text})

    def module(self, name: str) -> ModuleType:
        """The learner's ``savepoint.<name>``, imported afresh from the directory under test."""
        if self.package is None:
            raise RuntimeError("a trusted probe must not import savepoint")
        self.stage(f"import savepoint.{name}")
        module = importlib.import_module(f"savepoint.{name}")
        found = Path(module.__file__ or "").resolve()
        if not found.is_relative_to(Path(self.package).resolve()):
            raise ImportError(f"savepoint.{name} was imported from {found}, not from your package")
        return module

    def call(self, module: ModuleType, name: str, *args: Any, said: str = "", **kwargs: Any) -> Any:
        """Call the learner's function, having said so; ``said`` is how a person reads it."""
        self.stage(said or f"{name}(…)")
        function = getattr(module, name, None)
        if function is None:
            raise NotImplementedError(f"{module.__name__} has no {name}")
        return function(*args, **kwargs)


def run(request: Mapping[str, Any], blobs: Mapping[str, bytes], out: BinaryIO) -> None:
    """Run one probe and report on ``out``: the evidence, or how it failed. Never raises."""
    context = Context(request, blobs, out)
    try:
        _settle(request)
        result = PROBES[request["probe"]](context)
        facts, tensors = result if isinstance(result, tuple) else (result, {})
        report: dict[str, Any] = {"outcome": "ok", "facts": facts or {}}
        report["notes"] = _side_effects(request)
        wire.send(out, report, {"tensors": pack(tensors)} if tensors else {})
    except BaseException as error:  # SystemExit and KeyboardInterrupt are evidence too
        wire.send(out, failure(error, request.get("savepoint")))


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes."""
    if all(tensor.dtype in _ALSO_NUMPY for tensor in tensors.values()):
        # The same bytes in a third of the time: hundreds of small tensors are the rule.
        return arrays_to_bytes(
            {k: v.detach().cpu().contiguous().numpy() for k, v in tensors.items()}
        )
    # Clones: shared and strided tensors are refused otherwise.
    return tensors_to_bytes({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})


def _settle(request: Mapping[str, Any]) -> None:
    """Give the process its own random state and its own import path."""
    seed = int.from_bytes(os.urandom(4), "big")
    random.seed(seed)
    np.random.seed(seed)
    # Probes run on the CPU. torch.manual_seed would also queue the seed, with a stack trace for
    # each, for every accelerator that is not there: milliseconds of every probe.
    torch.default_generator.manual_seed(seed)
    sys.dont_write_bytecode = True
    # A .pyc made in the same second as a same-sized edit would be run in the edit's place.
    sys.pycache_prefix = str(Path.cwd() / ".no-bytecode")
    if request.get("savepoint"):
        sys.path.insert(0, request["savepoint"])


def _side_effects(request: Mapping[str, Any]) -> list[str]:
    notes = []
    if not request.get("savepoint"):
        return notes
    if Path.cwd() != Path(request["cwd"]):
        notes.append("your code left the process in another working directory")
    if torch.get_num_threads() != 1:
        notes.append(
            f"your code set torch to {torch.get_num_threads()} threads: the order of summation, "
            "and so the bits, depend on it"
        )
    return notes


def failure(error: BaseException, package: str | None) -> dict[str, Any]:
    """A report of ``error``: its type, its text, and where in the learner's files it came from."""
    frames = []
    for frame, line in traceback.walk_tb(error.__traceback__):
        name = frame.f_code.co_filename
        if package and Path(name).is_relative_to(package):
            frames.append((str(Path(name).relative_to(package)), line, frame.f_code.co_name, name))
    where = None
    if frames:
        shown, line, function, name = frames[-1]
        where = {
            "file": shown,
            "line": line,
            "function": function,
            "code": linecache.getline(name, line).strip()[:200],
        }
    if isinstance(error, SyntaxError) and error.filename and package:
        name = Path(error.filename)
        where = {
            "file": str(name.relative_to(package)) if name.is_relative_to(package) else name.name,
            "line": error.lineno or 0,
            "function": "",
            "code": (error.text or "").strip()[:200],
        }
    try:
        text = str(error.msg if isinstance(error, SyntaxError) else error)
    except Exception:
        text = "(its text could not be read)"
    if text.startswith("Weights only load failed"):
        # torch goes on with advice to load the file unsafely.
        blocked = re.search(r"GLOBAL (\S+) was not an allowed global", text)
        held = f": it holds {blocked[1]}" if blocked else ""
        text = f"torch.load's default refuses the file{held}"
    return {
        "outcome": "raised",
        "type": type(error).__name__,
        "bases": [base.__name__ for base in type(error).__mro__],
        "missing_module": str(error.name or "") if isinstance(error, ImportError) else "",
        "text": text[:2000],
        "where": where,
    }
