"""Chaff: Every UnpicklingError is taken for a refusal.

Task: safe_load

Breaks: damaged (here: no checkpoint, or a cut legacy file): CheckpointError, not
UnsafeCheckpointError.
"""
from __future__ import annotations

import fnmatch
import io
import os
import pickle
import pickletools
import platform
import re
import sys
import time
import warnings
import zipfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from savepoint.checkpoint import CheckpointError, rng_state, set_rng_state

FORMAT_VERSION = 3


def environment() -> dict[str, str]:
    """Where this process runs."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": str(np.__version__),
        "platform": platform.platform(),
    }


@dataclass(frozen=True)
class LoadReport:
    loaded_keys: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)


import copy


def migrate(checkpoint):
    """Deepcopies first, then works in place on the copy."""
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"expected a dict, found {type(checkpoint)}")
    c = copy.deepcopy(checkpoint)
    if "format_version" in c:
        version = c["format_version"]
        if version != 3 or type(version) is not int:
            raise CheckpointError(f"format_version {version!r} cannot be read; ours is {FORMAT_VERSION}")
        if "model_state_dict" not in c:
            raise CheckpointError("no model_state_dict in this checkpoint")
        return c
    if "version" in c:
        version = c["version"]
        if version != 2 or type(version) is not int:
            raise CheckpointError(f"version {version!r} cannot be read; ours is {FORMAT_VERSION}")
        if "model" not in c:
            raise CheckpointError("no model in this checkpoint")
    elif "model_state_dict" in c:
        c["format_version"] = FORMAT_VERSION
        c["environment"] = {}
        return c
    elif "model" in c:
        print("savepoint: migrating a v1 checkpoint")
        c["model"] = {re.sub(r"^module\.", "", k): v for k, v in c["model"].items()}
        c["version"] = 2
    else:
        raise CheckpointError("there is no model in this dict")

    print("savepoint: migrating a v2 checkpoint")
    del c["version"]
    c["environment"] = {}
    if "torch" in c:
        c["environment"]["torch"] = str(c.pop("torch"))
    c["model_state_dict"] = c.pop("model")
    for name in ["optimizer", "scheduler"]:
        if name in c:
            c[f"{name}_state_dict"] = c.pop(name)
    if "loss" in c:
        c["loss"] = float(c["loss"])
    if "rng" in c:
        state = c["rng_state"] = c.pop("rng")
        if "numpy" in state:
            n = list(state["numpy"])
            n[1] = torch.from_numpy(n[1].astype("int64"))
            n[2:] = [int(n[2]), int(n[3]), float(n[4])]
            state["numpy"] = tuple(n)
    c["format_version"] = FORMAT_VERSION
    return c


class UnsafeCheckpointError(CheckpointError):
    globals: list[str] = []

    @classmethod
    def about(cls, path, names):
        error = cls("\n".join([
            f"{path} was refused. It would import:",
            *(f"  {name}" for name in names),
            "Allow those names with torch.serialization.safe_globals([...]), or re-save the file "
            "in the environment that wrote it.",
        ]))
        error.globals = list(names)
        return error


def safe_load(path, *, map_location="cpu"):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(path)
    with path.open("rb") as f:
        is_zip = f.read(2) == b"PK"
    if is_zip or zipfile.is_zipfile(path):
        try:
            with zipfile.ZipFile(path) as z:
                ok = z.testzip() is None
        except Exception:
            ok = False
        if not ok:
            raise CheckpointError(f"{path} is damaged")
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as e:
        names = re.findall(r"GLOBAL ([^\s`]+)", str(e))
        if True:
            try:
                names = sorted(set(names) | set(torch.serialization.get_unsafe_globals_in_checkpoint(str(path))))
            except Exception:
                pass
            raise UnsafeCheckpointError.about(path, names) from None
        raise CheckpointError(f"{path} is not a readable checkpoint") from None
    except Exception as e:
        raise CheckpointError(f"{path} is not a readable checkpoint: {type(e).__name__}") from None


def _patterns(patterns, what):
    if isinstance(patterns, (str, bytes)):
        raise TypeError(f"{what} is a collection of patterns, not one string")
    return list(patterns)


def _matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _shape(value):
    return tuple(value.shape) if isinstance(value, torch.Tensor) else None


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    """Load, strictly but for what is allowed; all or nothing."""
    allow_missing = _patterns(allow_missing, "allow_missing")
    allow_unexpected = _patterns(allow_unexpected, "allow_unexpected")
    pairs = [(old, new) for old, new in rename]

    incoming, renamed, problems = {}, {}, []
    for name, value in state_dict.items():
        target = name
        for old, new in pairs:
            if name.startswith(old):
                target = new + name[len(old):]
                break
        if target in incoming:
            problems.append(f"two names become {target}")
        incoming[target] = value
        if target != name:
            renamed[name] = target

    own = model.state_dict()
    missing = [name for name in own if name not in incoming]
    unexpected = [name for name in incoming if name not in own]
    loaded = [name for name in incoming if name in own]
    problems += [f"missing: {name}" for name in missing if not _matches(name, allow_missing)]
    problems += [f"unexpected: {name}" for name in unexpected if not _matches(name, allow_unexpected)]
    for name in loaded:
        if _shape(incoming[name]) != _shape(own[name]):
            problems.append(f"shape of {name}: {_shape(incoming[name])} in the file, {_shape(own[name])} in the model")
    if problems:
        raise CheckpointError("the weights do not fit the model:\n  " + "\n  ".join(problems))

    model.load_state_dict({name: incoming[name] for name in loaded}, strict=False)
    return LoadReport(loaded, missing, unexpected, renamed)


class _Ties:
    """Groups of names in a state dict that are one tensor."""

    def __init__(self, state):
        self.leader = {}
        groups = []
        for name, tensor in state.items():
            for first, other in groups:
                if self.same(tensor, other):
                    self.leader[name] = first
                    break
            else:
                groups.append((name, tensor))
                self.leader[name] = name

    @staticmethod
    def same(a, b):
        if a is b:
            return True
        return (a.numel() > 0 and a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
                and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
                and a.storage_offset() == b.storage_offset())

    def group(self, name):
        return [n for n, first in self.leader.items() if first == self.leader[name]]


def export_weights(model, path):
    from safetensors.torch import save_file
    state = model.state_dict(keep_vars=True)
    ties = _Ties(state)
    entries = {name: state[name].detach().contiguous().clone()
               for name in state if ties.leader[name] == name}
    save_file(entries, str(path), metadata=dict(environment(), format="pt", format_version=f"{FORMAT_VERSION}"))


def import_weights(model, path):
    from safetensors import safe_open
    if not os.path.exists(path):
        raise FileNotFoundError(path)
    stored = {}
    failure = None
    try:
        with safe_open(os.fspath(path), framework="pt", device="cpu") as f:
            for name in f.keys():
                stored[name] = f.get_tensor(name).clone()
    except Exception as e:
        failure = f"{type(e).__name__}: {e}"
    if failure:
        raise CheckpointError(f"{path}: {failure}")
    ties = _Ties(model.state_dict(keep_vars=True))
    for name in ties.leader:
        if name not in stored:
            twin = next((n for n in ties.group(name) if n in stored), None)
            if twin is not None:
                stored[name] = stored[twin]
    return load_weights(model, stored)
