"""Wheat: driven by tables; asks what is unsafe first; copies into named parameters and buffers."""

import contextlib
import io
import operator
import platform
import re
import zipfile
from collections import UserDict
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import reduce
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from savepoint.checkpoint import CheckpointError

FORMAT_VERSION = 3
MESSAGE = """{path} was not read: it asks for {count} name(s) that are not on torch's list.

{names}

What to do. (a) You know them all and trust the file: put them into
torch.serialization.safe_globals([...]) around this call. (b) Otherwise: in the environment that
wrote the file, re-save it as plain tensors, numbers and strings."""


class UnsafeCheckpointError(CheckpointError):
    """names: see ``globals``."""

    def __init__(self, message, globals=()):
        super().__init__(message)
        self.globals = [*globals]


@dataclass(frozen=True)
class LoadReport:
    loaded_keys: list
    missing_keys: list
    unexpected_keys: list
    renamed: dict


ENVIRONMENT = {
    "python": platform.python_version,
    "torch": lambda: str(torch.__version__),
    "numpy": lambda: np.__version__,
    "platform": platform.platform,
}


def environment():
    return {key: ask() for key, ask in ENVIRONMENT.items()}


def _damage(content):
    """None, or what is wrong. Legacy files have no checksums."""
    if content[2:15] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.":
        return None
    if not zipfile.is_zipfile(io.BytesIO(content)) or content[:4] != b"PK\x03\x04":
        return "not a (whole) zip file"
    try:
        records = zipfile.ZipFile(io.BytesIO(content))
        return reduce(
            lambda bad, name: bad or (not records.read(name) and False),
            records.namelist(),
            None if any("data.pkl" in name for name in records.namelist()) else "no data.pkl",
        )
    except Exception as error:
        return error


def safe_load(path, *, map_location="cpu"):
    content = Path(path).read_bytes()
    names = []
    with contextlib.suppress(Exception):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(io.BytesIO(content))
    damage = _damage(content)
    outcome = None
    if not damage and not names:
        try:
            outcome = [torch.load(io.BytesIO(content), map_location, weights_only=True)]
        except Exception as error:
            names = re.findall(r"GLOBAL (\S+)", str(error))
            names = [re.sub(r"^(?=\w+$)", "builtins.", name) for name in names]
            damage = not names and "unreadable"
    if damage:
        raise CheckpointError(f"{path}: {damage}")
    if outcome is None:
        text = MESSAGE.format(path=path, count=len(names), names="\n".join(names))
        raise UnsafeCheckpointError(text, names)
    return outcome[0]


def _numpy_state(rng):
    algorithm, keys, pos, has_gauss, cached = rng["numpy"]
    tensor = torch.zeros(len(keys), dtype=torch.int64)
    tensor[:] = torch.from_numpy(keys.astype("int64"))
    return {**rng, "numpy": (algorithm, tensor, pos, has_gauss, cached)}


SAME = lambda value: value  # noqa: E731
V2_TO_V3 = {  # key in v2: (key in v3, what becomes of the value)
    "model": ("model_state_dict", dict),
    "optimizer": ("optimizer_state_dict", SAME),
    "scheduler": ("scheduler_state_dict", SAME),
    "loss": ("loss", float),
    "rng": ("rng_state", _numpy_state),
    "torch": ("environment", lambda version: {"torch": str.__str__(version)}),
}
KINDS = (  # how to tell, the version; the first that fits
    (lambda c: "format_version" in c, operator.itemgetter("format_version"), {3}),
    (lambda c: "model_state_dict" in c, lambda c: 3, {3}),
    (lambda c: "version" in c, operator.itemgetter("version"), {2}),
    (lambda c: True, lambda c: 1, {1}),
)


def migrate(checkpoint):
    if not isinstance(checkpoint, dict):
        raise CheckpointError("not a dict, and so not a checkpoint")
    ask, known = next((ask, known) for fits, ask, known in KINDS if fits(checkpoint))
    version = ask(checkpoint)
    if type(version) is not int or version not in known:
        newer = type(version) is int and version > FORMAT_VERSION
        why = "is newer than ours" if newer else "never was"
        raise CheckpointError(f"format {version!r} {why}; ours is {FORMAT_VERSION}")
    if not isinstance(checkpoint.get("model_state_dict" if version == 3 else "model"), dict):
        raise CheckpointError("a checkpoint without a model")
    steps = checkpoint.copy()
    if version < 2:
        names = (name.split("module.", 1) for name in steps["model"])
        names = (tail[-1] if not head else "module.".join([head, *tail]) for head, *tail in names)
        steps["model"] = dict(zip(names, steps["model"].values(), strict=True))
        steps["version"] = 2
    if version < 3:
        steps.pop("version")
        steps = dict(
            (V2_TO_V3[key][0], V2_TO_V3[key][1](value)) if key in V2_TO_V3 else (key, value)
            for key, value in steps.items()
        )
    return {"environment": {}} | steps | {"format_version": FORMAT_VERSION}


class Renamed(UserDict):
    """Names after renaming, in front of the caller's mapping."""

    def __init__(self, mapping, rules):
        super().__init__()
        self.was = {}
        for name in mapping:
            rule = next(((o, n) for o, n in rules if name.startswith(o)), ("", ""))
            new = rule[1] + name[len(rule[0]) :]
            if new in self.was:
                raise CheckpointError(f"{new} is the new name of {name} and of {self.was[new]}")
            self.was[new] = name
            self.data[new] = mapping[name]


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    if any(isinstance(patterns, str) for patterns in (allow_missing, allow_unexpected)):
        raise TypeError("allow_missing and allow_unexpected are lists")
    theirs = Renamed(state_dict, list(rename))
    ours = dict(model.state_dict())
    where = {
        "missing": {n for n in ours if n not in theirs},
        "unexpected": {n for n in theirs if n not in ours},
    }
    allowed = {"missing": allow_missing, "unexpected": allow_unexpected}
    trouble = [
        f"{kind} {name}"
        for kind, names in where.items()
        for name in names
        if True not in [fnmatchcase(name, pattern) for pattern in allowed[kind]]
    ]
    common = [name for name in theirs if name in ours]
    for name in common:
        shapes = [tuple(side[name].shape) for side in (theirs, ours)]
        if shapes[0] != shapes[1]:
            trouble.append(f"shape {name} " + " != ".join(map(str, shapes)))
    if trouble:
        raise CheckpointError(f"{len(trouble)} differences: " + ", ".join(sorted(trouble)))
    holders = dict(model.named_parameters(remove_duplicate=False))
    holders |= dict(model.named_buffers(remove_duplicate=False))
    for name in common:
        holders[name].data.copy_(theirs[name].data)
    renamed = {old: new for new, old in theirs.was.items() if new != old}
    return LoadReport(common, list(where["missing"]), list(where["unexpected"]), renamed)


def _groups(model):
    """Names by the memory they stand for; an empty tensor stands for itself."""
    groups = {}
    for name, t in model.state_dict().items():
        key = (t.data_ptr(), tuple(t.shape), t.stride(), t.dtype) if t.numel() else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def export_weights(model, path):
    state = model.state_dict()
    out = {names[-1]: torch.empty(state[names[-1]].shape, dtype=state[names[-1]].dtype)
           for names in _groups(model)}  # fmt: skip
    for name, empty in out.items():
        empty.copy_(state[name])
    save_file(out, path, dict(environment(), format="pt", format_version="3"))


def import_weights(model, path):
    Path(path).stat()
    tensors = {}
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            for name in list(file.keys()):
                tensors[name] = file.get_tensor(name)
    except Exception as error:
        raise CheckpointError(f"{path}: {error}") from error
    for names in _groups(model):
        there = [name for name in names if name in tensors]
        for name in names:
            if there:
                tensors.setdefault(name, tensors[there[0]])
    return load_weights(model, tensors)
