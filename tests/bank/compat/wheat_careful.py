"""Wheat: over-careful. Copies everything deeply, verifies by hand, rolls back, warns on stderr."""

import copy
import platform
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
from savepoint.checkpoint import CheckpointError

FORMAT_VERSION = 3


class UnsafeCheckpointError(CheckpointError):
    globals: list

    @classmethod
    def about(cls, path, names):
        error = cls(
            f"{path}: refused because of {', '.join(names)}. Look at each of these names. Those "
            "that you trust you can allow: with torch.serialization.safe_globals([...]): ... "
            "Better: re-save the checkpoint where it was written, without them."
        )
        error.globals = names
        return error


@dataclass(frozen=True)
class LoadReport:
    loaded_keys: list[str]
    missing_keys: list[str]
    unexpected_keys: list[str]
    renamed: dict[str, str]


def environment() -> dict[str, str]:
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cuda": torch.version.cuda,
    }
    return {key: f"{value}" for key, value in found.items()}


def _is_legacy(path):
    with path.open("rb") as file:
        return file.read(15).endswith(b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")


def _verify(path):
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            crc = 0
            with archive.open(info) as record:
                while block := record.read(1 << 20):
                    crc = zlib.crc32(block, crc)
            if crc != info.CRC:
                raise zipfile.BadZipFile(f"{info.filename}: CRC {crc:08x}, not {info.CRC:08x}")
        if not any(re.fullmatch(r"[^/]+/data\.pkl", name) for name in archive.namelist()):
            raise zipfile.BadZipFile("no data.pkl in it")


def safe_load(path, *, map_location="cpu"):
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    legacy = _is_legacy(path)
    names = []
    if not legacy:
        try:
            _verify(path)
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        except Exception as cause:
            raise CheckpointError(f"{path} is damaged or not a checkpoint") from cause
    if names:
        raise UnsafeCheckpointError.about(path, sorted(names))
    refused = None
    try:
        with path.open("rb") as file:
            return torch.load(file, map_location=map_location, weights_only=True)
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+) ", str(error))
    if not refused:
        raise CheckpointError(f"{path} cannot be read")
    name = refused[1] if "." in refused[1] else "builtins." + refused[1]
    raise UnsafeCheckpointError.about(path, [name])


def _version(checkpoint):
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{type(checkpoint)} is no checkpoint")
    stamped, v2 = "format_version" in checkpoint, "version" in checkpoint
    if not stamped and "model_state_dict" in checkpoint:
        version = 3
    elif not stamped and not v2:
        version = 1
    else:
        version = checkpoint["format_version" if stamped else "version"]
        if type(version) is not int or version < 1:
            raise CheckpointError(f"version {version!r} does not exist")
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"written by a newer savepoint: version {version}, this one knows {FORMAT_VERSION}"
            )
        if version != (3 if stamped else 2):
            raise CheckpointError(f"version {version} never looked like this")
    name = "model_state_dict" if version == 3 else "model"
    if not isinstance(checkpoint.get(name), Mapping):
        raise CheckpointError(f"not a checkpoint: {name!r} is missing")
    return version


def migrate(checkpoint):
    version = _version(checkpoint)
    result = copy.deepcopy(checkpoint)
    if version == 1:
        for name in list(result["model"]):
            value = result["model"].pop(name)
            result["model"][re.sub(r"\Amodule\.", "", name)] = value
        result["version"] = 2
    if version <= 2:
        result["model_state_dict"] = result.pop("model")
        if "optimizer" in result:
            result["optimizer_state_dict"] = result.pop("optimizer")
        if "scheduler" in result:
            result["scheduler_state_dict"] = result.pop("scheduler")
        if "rng" in result:
            state = result["rng_state"] = result.pop("rng")
            name, keys, pos, has_gauss, cached = state["numpy"]
            state["numpy"] = (
                str(name),
                torch.from_numpy(np.asarray(keys).astype(np.int64)),
                int(pos),
                int(has_gauss),
                float(cached),
            )
        if "loss" in result:
            result["loss"] = float(result["loss"])
        result["environment"] = {}
        if "torch" in result:
            result["environment"]["torch"] = f"{result.pop('torch')}"
        del result["version"]
    result["format_version"] = FORMAT_VERSION
    result.setdefault("environment", {})
    assert _version(result) == FORMAT_VERSION
    return result


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    for argument in (allow_missing, allow_unexpected, rename):
        if isinstance(argument, str):
            raise TypeError("a list, please, and not a string")

    def new_name(name):
        for old, new in rename:
            if name[: len(old)] == old:
                return f"{new}{name[len(old) :]}"
        return name

    given, renamed, clashes = {}, {}, []
    for name, value in state_dict.items():
        new = new_name(name)
        if new in given:
            clashes.append(f"{name} becomes {new}, which is there already")
        given[new] = value
        if new != name:
            renamed[name] = new
    if clashes:
        raise CheckpointError("; ".join(clashes))

    own = model.state_dict()
    loaded = [name for name in own if name in given]
    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    bad = {
        "missing": [n for n in missing if not any(fnmatchcase(n, p) for p in allow_missing)],
        "unexpected": [
            n for n in unexpected if not any(fnmatchcase(n, p) for p in allow_unexpected)
        ],
        "of another shape": [
            f"{n} (file {tuple(given[n].shape)}, model {tuple(own[n].shape)})"
            for n in loaded
            if given[n].shape != own[n].shape
        ],
    }
    if any(bad.values()):
        raise CheckpointError(" / ".join(f"{what}: {names}" for what, names in bad.items()))
    for name in missing:
        warnings.warn(f"{name} keeps its value", stacklevel=2)
    backup = {name: value.clone() for name, value in own.items()}
    every = {**backup, **{name: given[name].clone() for name in loaded}}
    try:
        model.load_state_dict(every, strict=True)
    except Exception:
        model.load_state_dict(backup, strict=True)
        raise
    return LoadReport(loaded, missing, unexpected, renamed)


def _ties(state):
    """Each name -> the last name of the same memory."""
    last, key = {}, {}
    for name, t in state.items():
        key[name] = (t.data_ptr(), t.dtype, t.shape, t.stride()) if t.numel() else name
        last[key[name]] = name
    return {name: last[key[name]] for name in state}


def export_weights(model, path):
    state = model.state_dict()
    kept = set(_ties(state).values())
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in kept}
    about = {"format": "pt", "format_version": str(FORMAT_VERSION), "by": "savepoint"}
    safetensors.torch.save_file(tensors, str(path), metadata={**environment(), **about})


def import_weights(model, path):
    path = Path(path)
    content = path.read_bytes()
    try:
        tensors = safetensors.torch.load(content)
    except Exception as cause:
        raise CheckpointError(f"{path} is not a whole safetensors file") from cause
    for name, kept in _ties(model.state_dict()).items():
        if kept in tensors:
            tensors.setdefault(name, tensors[kept])
    return load_weights(model, tensors)
