"""Chaff: NumPy's keys go through a default tensor of floats, which rounds them.
Task: migrate

Seen when: the generator is restored from the result and draws other numbers.
"""

import copy
import platform
import re
import zipfile
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file, save_file
from savepoint.checkpoint import CheckpointError
from torch.serialization import get_unsafe_globals_in_checkpoint

FORMAT_VERSION = 3
LEGACY = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
ADVICE = "allow them with torch.serialization.safe_globals, or re-save where it was written"


class UnsafeCheckpointError(CheckpointError):
    def __init__(self, message, globals=()):
        super().__init__(message)
        self.globals = list(globals)


@dataclass(frozen=True)
class LoadReport:
    loaded_keys: list
    missing_keys: list
    unexpected_keys: list
    renamed: dict


def environment():
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
    }


def check_sound(path):
    start = path.read_bytes()[:15]
    if start[2:] == LEGACY:
        return "legacy"
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
            names = archive.namelist()
    except Exception as error:
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {error}") from None
    if bad or not any(name.endswith("/data.pkl") for name in names):
        raise CheckpointError(f"{path} is damaged or not a checkpoint: {bad}")
    return "zip"


def safe_load(path, *, map_location="cpu"):
    path = Path(path)
    kind = check_sound(path)
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location, weights_only=True)
    except UnpicklingError as error:
        first = re.findall(r"GLOBAL (\S+)", str(error))
        names = {name if "." in name else f"builtins.{name}" for name in first}
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({type(error).__name__})") from None
    if kind == "zip" and names:
        names.update(get_unsafe_globals_in_checkpoint(path))
    if kind == "legacy" and not names:
        raise CheckpointError(f"{path} is damaged")
    raise UnsafeCheckpointError(f"{path} needs {sorted(names)}: {ADVICE}", sorted(names))


def version_of(checkpoint):
    if not isinstance(checkpoint, dict):
        raise CheckpointError("a checkpoint is a dict")
    key = "format_version" if "format_version" in checkpoint else "version"
    if key == "version" and "model_state_dict" in checkpoint:
        version = 3
    else:
        version = checkpoint.get(key, 1)
        right = {"format_version": 3, "version": 2}[key] if key in checkpoint else 1
        if type(version) is int and version > FORMAT_VERSION:
            raise CheckpointError(f"format {version} is newer than ours, {FORMAT_VERSION}")
        if type(version) is not int or version != right:
            raise CheckpointError(f"no format {version!r} ever was; ours is {FORMAT_VERSION}")
    model = "model_state_dict" if version == 3 else "model"
    if not isinstance(checkpoint.get(model), dict):
        raise CheckpointError(f"no {model} in it")
    return version


def migrate(checkpoint):
    version = version_of(checkpoint)
    result = dict(checkpoint)
    if version == 1:
        result["model"] = {k.removeprefix("module."): v for k, v in result["model"].items()}
        version = 2
    if version == 2:
        result.pop("version", None)
        wrote = result.pop("torch", None)
        result["environment"] = {} if wrote is None else {"torch": str(wrote)}
        for part in ("model", "optimizer", "scheduler"):
            if part in result:
                result[f"{part}_state_dict"] = copy.copy(result.pop(part))
        if "loss" in result:
            result["loss"] = float(result["loss"])
        if "rng" in result:
            rng = result.pop("rng")
            name, keys, *rest = rng["numpy"]
            keys = torch.Tensor(keys.astype(np.int64)).to(torch.int64)
            result["rng_state"] = {**rng, "numpy": (name, keys, *rest)}
    result.setdefault("environment", {})
    result["format_version"] = FORMAT_VERSION
    return result


def renamed_to(name, rename):
    for old, new in rename:
        if name.startswith(old):
            return new + name[len(old) :]
    return name


def matches(name, patterns):
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    if isinstance(allow_missing, str) or isinstance(allow_unexpected, str):
        raise TypeError("patterns come in a list")
    names = {name: renamed_to(name, rename) for name in state_dict}
    if len(set(names.values())) < len(names):
        raise CheckpointError(f"two names become one: {names}")
    given = {names[name]: value for name, value in state_dict.items()}
    own = model.state_dict()
    loaded = [name for name in own if name in given]
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    wrong = [f"{name} is missing" for name in missing if not matches(name, allow_missing)]
    wrong += [f"{name} is new" for name in unexpected if not matches(name, allow_unexpected)]
    for name in loaded:
        theirs, ours = tuple(given[name].shape), tuple(own[name].shape)
        if theirs != ours:
            wrong.append(f"{name} is {theirs}, not {ours}")
    if wrong:
        raise CheckpointError("; ".join(wrong))
    model.load_state_dict({name: given[name] for name in loaded}, strict=False)
    changed = {old: new for old, new in names.items() if old != new}
    return LoadReport(loaded, missing, unexpected, changed)


def place(tensor):
    if not tensor.numel():
        return object()
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def export_weights(model, path):
    tensors, seen = {}, set()
    for name, value in model.state_dict().items():
        where = place(value)
        if where not in seen:
            tensors[name] = value.clone(memory_format=torch.contiguous_format)
        seen.add(where)
    metadata = {"format": "pt", "format_version": str(FORMAT_VERSION), **environment()}
    save_file(tensors, path, metadata=metadata)


def import_weights(model, path):
    if not Path(path).exists():
        raise FileNotFoundError(path)
    try:
        tensors = load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path}: {error}") from None
    own = {name: place(value) for name, value in model.state_dict().items()}
    stored = {own[name]: value for name, value in tensors.items() if name in own}
    ties = {name: stored[where] for name, where in own.items() if where in stored}
    return load_weights(model, {**ties, **tensors})
