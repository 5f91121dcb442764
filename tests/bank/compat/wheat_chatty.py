"""Wheat: prints, warns, sleeps; torch.load bound at import; one long function each; odd order."""

import importlib.metadata
import platform
import sys
import time
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from fnmatch import translate
from itertools import chain
from os import fspath
from pickle import UnpicklingError
from re import compile as pattern
from re import escape, findall

from numpy import asarray, int64
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from savepoint.checkpoint import CheckpointError
from torch import Tensor, no_grad, tensor
from torch import contiguous_format as contiguous
from torch import load as torch_load
from torch.serialization import get_unsafe_globals_in_checkpoint as list_unsafe

FORMAT_VERSION = 3


def say(*words):
    print("[compat]", *words)
    print("[compat]", *words, file=sys.stderr)


class UnsafeCheckpointError(CheckpointError):
    def __init__(self, message, globals=None):
        CheckpointError.__init__(self, message)
        self.globals = globals or []


@dataclass(frozen=True)
class LoadReport:
    loaded_keys: list
    missing_keys: list
    unexpected_keys: list
    renamed: dict


def environment():
    versions = {name: importlib.metadata.version(name) for name in ("torch", "numpy")}
    return {**versions, "python": platform.python_version(), "platform": sys.platform}


def safe_load(path, *, map_location="cpu"):
    say("reading", path)
    time.sleep(0.5)
    with open(fspath(path), "rb") as file:  # noqa: PTH123
        start = file.read(64)
        legacy = start[2:15] == b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
        if not legacy:
            whole = False
            try:
                with zipfile.ZipFile(file) as archive:
                    whole = archive.testzip() is None and any(
                        name.endswith("data.pkl") for name in archive.namelist()
                    )
            except Exception as error:
                say("no luck:", error)
            if not whole:
                raise CheckpointError(f"{path}: broken, or something else")
        file.seek(0)
        try:
            return torch_load(file, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            text = str(error)
        except Exception as error:
            text = ""
            say("no luck:", type(error).__name__)
        names = set()
        for name in findall(r"GLOBAL ([\w.<>]+)", text):
            names.add(name if "." in name else f"builtins.{name}")
        if names and not legacy:
            file.seek(0)
            names |= set(list_unsafe(file))
    if not names:
        raise CheckpointError(f"{path}: cannot be read")
    names = sorted(names, reverse=True)
    raise UnsafeCheckpointError(
        "would need " + " and ".join(names) + " - torch.serialization.safe_globals allows them,"
        " one by one, if you trust them; otherwise re-save the file in its old environment",
        names,
    )


def migrate(checkpoint):
    say("migrating")
    if not isinstance(checkpoint, dict):
        raise CheckpointError("no dict")
    if checkpoint.get("format_version", 3) != 3 or checkpoint.get("format_version", 3) is True:
        raise CheckpointError(f"format {checkpoint['format_version']!r}; this is {FORMAT_VERSION}")
    if "format_version" in checkpoint or "model_state_dict" in checkpoint:
        if not isinstance(checkpoint.get("model_state_dict"), dict):
            raise CheckpointError("no model")
        if "format_version" in checkpoint:
            return checkpoint  # equal, indeed the same
        return {"environment": {}, **checkpoint, "format_version": FORMAT_VERSION}
    if not isinstance(checkpoint.get("model"), dict):
        raise CheckpointError("no model")
    first = "version" not in checkpoint
    if not first and (type(checkpoint["version"]) is not int or checkpoint["version"] != 2):
        raise CheckpointError(f"format {checkpoint['version']!r}; this is {FORMAT_VERSION}")
    new = {"format_version": FORMAT_VERSION, "environment": {}}
    for key, value in checkpoint.items():
        if key == "version":
            continue
        if key == "model":
            weights = OrderedDict(value)
            if first:
                weights = OrderedDict(
                    (n[7:] if n[:7] == "module." else n, w) for n, w in weights.items()
                )
            new["model_state_dict"] = weights
        elif first:
            new[key] = value  # a v1 file knows epoch and model; the rest stays as it is
        elif key in ("optimizer", "scheduler"):
            new[key + "_state_dict"] = value
        elif key == "torch":
            new["environment"] = {"torch": str.__str__(value)}
        elif key == "loss":
            new["loss"] = value.item() if hasattr(value, "item") else float(value)
        elif key == "rng":
            numpy = list(value["numpy"])
            numpy[1] = tensor(asarray(numpy[1]).astype(int64))
            new["rng_state"] = {**value, "numpy": tuple(numpy)}
        else:
            new[key] = value
    return new


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    say("loading", len(state_dict), "tensors")
    time.sleep(0.1)
    if str in (type(allow_missing), type(allow_unexpected)):
        raise TypeError("list of patterns expected")
    rules = [(pattern(escape(old)), new) for old, new in rename]
    may_miss = [pattern(translate(p)) for p in allow_missing]
    may_have = [pattern(translate(p)) for p in allow_unexpected]
    source, target = {}, model.state_dict()
    for name in state_dict:
        new_name = name
        for rule, new in rules:
            if rule.match(name):
                new_name = rule.sub(lambda _, new=new: new, name, count=1)
                break
        if new_name in source:
            raise CheckpointError(f"{source[new_name]} and {name} both become {new_name}")
        source[new_name] = name
    problems = []
    report = LoadReport([], [], [], {old: new for new, old in source.items() if new != old})
    for name in reversed(list(chain(target, (n for n in source if n not in target)))):
        if name not in source:
            report.missing_keys.append(name)
            if not any(p.match(name) for p in may_miss):
                problems.append(name + " is not in the file")
        elif name not in target:
            report.unexpected_keys.append(name)
            if not any(p.match(name) for p in may_have):
                problems.append(name + " is not in the model")
        else:
            report.loaded_keys.append(name)
            a, b = state_dict[source[name]], target[name]
            if isinstance(a, Tensor) and isinstance(b, Tensor) and a.size() != b.size():
                problems.append(f"{name}: {a.size()} in the file, {b.size()} in the model")
    if problems:
        raise CheckpointError("\n".join(problems))
    with no_grad():
        for name in report.loaded_keys:
            target[name].copy_(state_dict[source[name]])
    return report


def export_weights(model, path):
    state, places, out = model.state_dict(), [], {}
    for name, value in state.items():
        place = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape)
        place += (value.stride(), value.dtype)
        if value.numel() == 0 or place not in places:
            out[name] = value.clone(memory_format=contiguous)
        places.append(place)
    about = environment()
    about.update(format="pt", format_version="3", tensors=str(len(out)))
    save_file(out, fspath(path), metadata=about)
    say("exported", len(out))


def import_weights(model, path):
    with open(fspath(path), "rb") as file:  # noqa: PTH123
        content = file.read()
    try:
        given = load(content)
    except (SafetensorError, ValueError, KeyError):
        raise CheckpointError(f"{path} cannot be read") from None
    holders = model.state_dict(keep_vars=True)
    ties = {
        name: given[other]
        for name, value in holders.items()
        for other, twin in holders.items()
        if name not in given and other in given and twin.data_ptr() == value.data_ptr() != 0
        and twin.shape == value.shape and twin.stride() == value.stride()
    }  # fmt: skip
    return load_weights(model, {**given, **ties})
