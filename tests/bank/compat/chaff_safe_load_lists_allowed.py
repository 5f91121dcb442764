"""Chaff: Of a refused file all its names are listed that torch does not allow by default, those
the caller allowed included.

Task: safe_load

Breaks: `globals` are the blocked globals; what the caller allowed is allowed.
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


class _Step:
    """One step of the ladder: from a version to the next."""

    def __init__(self, source):
        self.source = source

    def __call__(self, checkpoint):
        raise NotImplementedError


class _OneToTwo(_Step):
    def __call__(self, checkpoint):
        state = checkpoint["model"]
        model = OrderedDict()
        for name in state:
            model[name[len("module."):] if name.startswith("module.") else name] = state[name]
        metadata = getattr(state, "_metadata", None)
        if metadata is not None:
            stripped = OrderedDict()
            for name, value in metadata.items():
                if name == "module":
                    stripped[""] = value
                elif name.startswith("module."):
                    stripped[name[7:]] = value
            model._metadata = stripped
        return {**checkpoint, "version": 2, "model": model}


class _TwoToThree(_Step):
    def __call__(self, checkpoint):
        rest = {k: v for k, v in checkpoint.items()
                if k not in {"version", "torch", "model", "optimizer", "scheduler", "rng", "loss"}}
        rest["model_state_dict"] = checkpoint["model"]
        for part in ("optimizer", "scheduler"):
            if part in checkpoint:
                rest[part + "_state_dict"] = checkpoint[part]
        if "loss" in checkpoint:
            rest["loss"] = float(checkpoint["loss"])
        if "rng" in checkpoint:
            rest["rng_state"] = self.rng(checkpoint["rng"])
        rest["format_version"] = 3
        written = {}
        if checkpoint.get("torch") is not None:
            written["torch"] = str(checkpoint["torch"])
        rest["environment"] = written
        return rest

    @staticmethod
    def rng(old):
        result = {key: value for key, value in old.items() if key != "numpy"}
        numpy_state = old.get("numpy")
        if numpy_state is not None:
            algorithm, key, *tail = numpy_state
            words = torch.tensor([int(word) for word in key], dtype=torch.int64)
            result["numpy"] = (str(algorithm), words, int(tail[0]), int(tail[1]), float(tail[2]))
        return result


_LADDER = {1: _OneToTwo(1), 2: _TwoToThree(2)}


def _detect(checkpoint) -> int:
    if not isinstance(checkpoint, dict):
        raise CheckpointError("this is no checkpoint (not a dict)")
    if "format_version" in checkpoint:
        version, legal = checkpoint["format_version"], (3,)
    elif "version" in checkpoint:
        version, legal = checkpoint["version"], (2,)
    else:
        version = legal = None
    if legal is not None:
        if isinstance(version, bool) or not isinstance(version, int):
            raise CheckpointError(f"version {version!r} never existed")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"written in format {version}, newer than ours, {FORMAT_VERSION}: update savepoint")
        if version not in legal:
            raise CheckpointError(f"version {version!r} never existed")
    else:
        version = 3 if "model_state_dict" in checkpoint else 1
    if ("model_state_dict" if version == 3 else "model") not in checkpoint:
        raise CheckpointError("this is no checkpoint (no model in it)")
    return version


def migrate(checkpoint):
    version = _detect(checkpoint)
    result = dict(checkpoint)
    while version < FORMAT_VERSION:
        result = _LADDER[version](result)
        version += 1
    if "format_version" not in result:
        result["format_version"] = FORMAT_VERSION
        result["environment"] = {}
    return result


class UnsafeCheckpointError(CheckpointError):
    def __init__(self, message, globals=()):
        super().__init__(message)
        self.globals = list(globals)


class _PickleScan:
    """The globals of a pickle, by disassembly alone: nothing is executed."""

    def __init__(self, stream):
        self.found = []
        strings, memo, last = [], {}, None
        for opcode, argument, _ in pickletools.genops(stream):
            name = opcode.name
            if name in ("GLOBAL", "INST"):
                self.found.append(argument.replace(" ", ".", 1))
            elif name == "STACK_GLOBAL" and len(strings) >= 2:
                self.found.append(".".join(strings[-2:]))
            if isinstance(argument, str) and "UNICODE" in name:
                strings.append(argument)
                last = argument
            elif name == "MEMOIZE":
                memo[len(memo)] = last
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = last
            elif name in ("BINGET", "LONG_BINGET") and isinstance(memo.get(argument), str):
                strings.append(memo[argument])


def _allowed():
    from torch import _weights_only_unpickler as unpickler
    return set(unpickler._get_allowed_globals()) | set(unpickler._get_user_allowed_globals())


def _refuse(path, names):
    names = list(dict.fromkeys(names))
    return UnsafeCheckpointError(
        f"{path}: these names are not on the list of what may be loaded: {names}. Allow them with "
        "`torch.serialization.safe_globals` if you trust the writer, or re-save the file in the environment that wrote it.",
        names)


def _is_zip(data):
    return data[:2] == b"PK" or zipfile.is_zipfile(io.BytesIO(data))


def safe_load(path, *, map_location="cpu"):
    data = Path(path).read_bytes()
    path = os.fspath(path)
    if not data:
        raise CheckpointError(f"{path}: an empty file")
    problem = None
    blocked = []
    if _is_zip(data):
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as z:
                broken = z.testzip()
                if broken:
                    problem = f"checksum of {broken}"
                pickles = [n for n in z.namelist() if n.endswith("/data.pkl")]
                if not problem and pickles:
                    from torch import _weights_only_unpickler as unpickler
                    names = _PickleScan(io.BytesIO(z.read(pickles[0]))).found
                    if any(n not in _allowed() for n in names):
                        blocked = [n for n in names if n not in unpickler._get_allowed_globals()]
                elif not problem:
                    problem = "no data.pkl"
        except Exception as e:
            problem = repr(type(e))
        if problem:
            raise CheckpointError(f"{path}: damaged ({problem})")
        if blocked:
            raise _refuse(path, blocked)
    result = None
    try:
        result = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except Exception as e:
        problem = str(e)
    if problem is None:
        return result
    hit = re.search(r"GLOBAL (\S+) (?:was not|whose module)", problem)
    if hit:
        raise _refuse(path, [hit.group(1)])
    raise CheckpointError(f"{path}: damaged, or not a checkpoint")


class _Plan:
    def __init__(self, model, state_dict, rename):
        self.model, self.source = model, state_dict
        self.own = dict(model.state_dict())
        self.rules = tuple(map(tuple, rename))
        self.target = {name: self._rename(name) for name in state_dict}
        self.by_target = {}
        for name, target in self.target.items():
            self.by_target.setdefault(target, []).append(name)

    def _rename(self, name):
        return next((new + name[len(old):] for old, new in self.rules if name.startswith(old)), name)

    @property
    def loaded(self):
        return [t for t in self.by_target if t in self.own]

    @property
    def missing(self):
        return [t for t in self.own if t not in self.by_target]

    @property
    def unexpected(self):
        return [t for t in self.by_target if t not in self.own]

    def value(self, target):
        return self.source[self.by_target[target][0]]

    def complaints(self, allow_missing, allow_unexpected):
        for target, names in self.by_target.items():
            if len(names) > 1:
                yield f"{' and '.join(names)} would both be {target}"
        for name in self.missing:
            if not any(fnmatch.fnmatchcase(name, p) for p in allow_missing):
                yield f"{name} is missing from the file"
        for name in self.unexpected:
            if not any(fnmatch.fnmatchcase(name, p) for p in allow_unexpected):
                yield f"{name} is not in the model"
        for name in self.loaded:
            theirs, ours = self.value(name), self.own[name]
            if torch.is_tensor(ours) and not torch.is_tensor(theirs):
                yield f"{name} is no tensor"
            elif torch.is_tensor(ours) and theirs.shape != ours.shape:
                yield f"{name}: file {tuple(theirs.shape)}, model {tuple(ours.shape)}"


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    for argument in (allow_missing, allow_unexpected):
        if isinstance(argument, str):
            raise TypeError("a sequence of patterns is needed, not a bare string")
    allow_missing, allow_unexpected = tuple(allow_missing), tuple(allow_unexpected)
    plan = _Plan(model, state_dict, rename)
    complaints = list(plan.complaints(allow_missing, allow_unexpected))
    if complaints:
        raise CheckpointError(f"{len(complaints)} problem(s): " + "; ".join(complaints))
    with torch.no_grad():
        for name in plan.loaded:
            if torch.is_tensor(plan.own[name]):
                plan.own[name].copy_(plan.value(name))
            else:
                model.load_state_dict({name: plan.value(name)}, strict=False)
    return LoadReport(
        loaded_keys=plan.loaded, missing_keys=plan.missing, unexpected_keys=plan.unexpected,
        renamed={a: b for a, b in plan.target.items() if a != b})


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
