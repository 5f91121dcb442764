"""Chaff: A pattern without its star is taken as a prefix.

Task: load_weights

Breaks: shell patterns (fnmatch.fnmatchcase).
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


def _version_of(checkpoint):
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"not a checkpoint: a {type(checkpoint).__name__}, not a dict")
    for key in ("format_version", "version"):
        if key in checkpoint:
            found = checkpoint[key]
            if type(found) is int and found > FORMAT_VERSION:
                raise CheckpointError(
                    f"the checkpoint has version {found}; this code reads up to version {FORMAT_VERSION}")
            if type(found) is not int or found != {"format_version": 3, "version": 2}[key]:
                raise CheckpointError(f"there never was a {key} {found!r}")
            model_key = "model_state_dict" if key == "format_version" else "model"
            if not isinstance(checkpoint.get(model_key), dict):
                raise CheckpointError(f"not a checkpoint: no {model_key} in it")
            return found
    if isinstance(checkpoint.get("model_state_dict"), dict):
        return 3
    if isinstance(checkpoint.get("model"), dict):
        return 1
    raise CheckpointError("not a checkpoint: no model in it")


def _v1_to_v2(old):
    new = dict(old)
    new["model"] = OrderedDict(
        (name.removeprefix("module."), value) for name, value in old["model"].items())
    new["version"] = 2
    return new


def _convert_rng(rng):
    new = dict(rng)
    if "numpy" in rng:
        name, keys, pos, has_gauss, cached = rng["numpy"]
        if not isinstance(keys, torch.Tensor):
            keys = torch.from_numpy(np.asarray(keys).astype(np.int64))
        new["numpy"] = (str(name), keys, int(pos), int(has_gauss), float(cached))
    return new


_V2_NAMES = {
    "model": "model_state_dict",
    "optimizer": "optimizer_state_dict",
    "scheduler": "scheduler_state_dict",
    "rng": "rng_state",
}


def _v2_to_v3(old):
    new = {}
    for key, value in old.items():
        if key in ("version", "torch"):
            continue
        if key == "rng":
            value = _convert_rng(value)
        elif key == "loss":
            value = float(value)
        new[_V2_NAMES.get(key, key)] = value
    new["format_version"] = 3
    new["environment"] = {"torch": "".join(old["torch"])} if "torch" in old else {}
    return new


def migrate(checkpoint):
    """Bring a loaded checkpoint of any version to v3."""
    version = _version_of(checkpoint)
    new = dict(checkpoint)
    if version == 3:
        if "format_version" not in checkpoint:
            new["format_version"] = FORMAT_VERSION
            new["environment"] = {}
        return new
    if version == 1:
        new = _v1_to_v2(new)
    return _v2_to_v3(new)


class UnsafeCheckpointError(CheckpointError):
    """The file names code that weights_only does not allow."""

    def __init__(self, path, names):
        self.globals = sorted(names)
        super().__init__(
            f"{os.fspath(path)} refers to code that is not allowed: {', '.join(self.globals)}. If you trust the file, "
            "allow those names with torch.serialization.safe_globals, or re-save it in the environment that wrote it.")


_BLOCKED = re.compile(r"GLOBAL ([\w.<>]+)")


def _check_zip(path):
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:
        raise CheckpointError(f"{path} is damaged: {type(error).__name__}") from None
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged: record {damaged}")


def safe_load(path, *, map_location="cpu"):
    """What the file holds, read with weights_only=True."""
    with open(path, "rb") as file:
        start = file.read(4)
    if not start:
        raise CheckpointError(f"{path} is empty")
    names = []
    if start == b"PK\x03\x04" or zipfile.is_zipfile(path):
        _check_zip(path)
        try:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception:
            names = []
    if names:
        raise UnsafeCheckpointError(path, names)
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        kind, blocked = type(error).__name__, _BLOCKED.findall(str(error))
    if blocked:
        raise UnsafeCheckpointError(path, set(blocked))
    raise CheckpointError(f"{path} cannot be read as a checkpoint ({kind})")


def _patterns(patterns, what):
    if isinstance(patterns, (str, bytes)):
        raise TypeError(f"{what} is a collection of patterns, not one string")
    return list(patterns)


def _matches(name, patterns):
    return any(fnmatch.fnmatchcase(name, pattern) or name.startswith(pattern.rstrip("*") or "\0") for pattern in patterns)


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


def _identity(tensor):
    if tensor.numel() == 0:
        return None
    return tensor.device, tensor.dtype, tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def export_weights(model, path):
    """Everything in model.state_dict(), as one safetensors file."""
    from safetensors.torch import save_file

    tensors, seen = {}, set()
    for name, tensor in model.state_dict().items():
        key = _identity(tensor)
        if key is not None and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    metadata = {**environment(), "format": "pt", "format_version": str(FORMAT_VERSION)}
    save_file(tensors, os.fspath(path), metadata=metadata)


def import_weights(model, path):
    import safetensors.torch

    data = Path(path).read_bytes()
    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from None
    stored = {}
    for name, tensor in model.state_dict().items():
        if name in tensors and _identity(tensor) is not None:
            stored.setdefault(_identity(tensor), name)
    full = dict(tensors)
    for name, tensor in model.state_dict().items():
        if name not in full and _identity(tensor) in stored:
            full[name] = tensors[stored[_identity(tensor)]]
    return load_weights(model, full)
