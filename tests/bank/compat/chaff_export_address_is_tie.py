"""Chaff: Tensors that start at one address count as tied, whatever their shapes.

Task: export_weights

Breaks: everything in `model.state_dict()`, and back, exactly.
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


# ---- minimal style
def _fail(text):
    raise CheckpointError(text)


def migrate(ckpt):
    isinstance(ckpt, dict) or _fail("a checkpoint is a dict")
    stamp = ckpt.get("format_version", ckpt.get("version", 3 if "model_state_dict" in ckpt else 1))
    stamped = "format_version" in ckpt or "version" in ckpt
    key = "format_version" if "format_version" in ckpt else "version"
    if stamped and (type(stamp) is not int or stamp != (3 if key == "format_version" else 2)):
        _fail(f"{key} {stamp!r}: this savepoint knows format {FORMAT_VERSION} and older")
    ("model_state_dict" if stamp == 3 else "model") in ckpt or _fail("no model in it")
    new = dict(ckpt)
    if stamp == 1:
        new["model"] = {k.removeprefix("module."): v for k, v in new["model"].items()}
    if stamp < 3:
        new.pop("version", None)
        new["environment"] = {"torch": str(new.pop("torch"))} if "torch" in new else {}
        for a, b in {"model": "model_state_dict", "optimizer": "optimizer_state_dict",
                     "scheduler": "scheduler_state_dict", "rng": "rng_state"}.items():
            if a in new:
                new[b] = new.pop(a)
        if "loss" in new:
            new["loss"] = float(new["loss"])
        if "rng_state" in new:
            kind, keys, *rest = new["rng_state"]["numpy"]
            new["rng_state"] = new["rng_state"] | {
                "numpy": (kind, torch.as_tensor(keys.astype(np.int64)), *(x.item() if hasattr(x, "item") else x for x in rest))}
    if "format_version" not in new:
        new["format_version"] = FORMAT_VERSION
        new.setdefault("environment", {})
    return new


class UnsafeCheckpointError(CheckpointError):
    def __init__(self, names):
        self.globals = names
        super().__init__(f"blocked: {', '.join(names)}. Allow them with torch.serialization.safe_globals "
                         "or re-save the file in the environment that wrote it.")


def safe_load(path, *, map_location="cpu"):
    with open(path, "rb") as f:
        zipped = f.read(4) == b"PK\x03\x04"
        try:
            if zipped:
                with zipfile.ZipFile(f) as z:
                    z.testzip() and _fail("a record is damaged")
        except Exception as e:
            raise CheckpointError(f"{path}: {e}") from None
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as e:
        names = re.findall(r"GLOBAL (\S+)", str(e))
    if names and zipped:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    raise UnsafeCheckpointError(names) if names else CheckpointError(f"{path}: not readable")


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    if isinstance(allow_missing, str) or isinstance(allow_unexpected, str):
        raise TypeError("patterns come in a list")
    rename, allow_missing, allow_unexpected = list(rename), list(allow_missing), list(allow_unexpected)
    new_name = {}
    for k in state_dict:
        new_name[k] = k
        for a, b in rename:
            if k.startswith(a):
                new_name[k] = b + k[len(a):]
                break
    new = {new_name[k]: v for k, v in state_dict.items()}
    len(new) == len(state_dict) or _fail(f"renaming makes two names one: {sorted(new_name.values())}")
    own = model.state_dict()
    def ok(k, pats):
        return any(fnmatch.fnmatchcase(k, p) for p in pats)
    missing, unexpected = [k for k in own if k not in new], [k for k in new if k not in own]
    def size(t):
        return list(t.shape) if torch.is_tensor(t) else None
    bad = [f"missing {k}" for k in missing if not ok(k, allow_missing)]
    bad += [f"unexpected {k}" for k in unexpected if not ok(k, allow_unexpected)]
    bad += [f"{k} is {size(own[k])}, in the file {size(new[k])}" for k in own if k in new and size(own[k]) != size(new[k])]
    bad and _fail(", ".join(bad))
    loaded = {k: new[k] for k in own if k in new}
    model.load_state_dict(loaded, strict=False)
    return LoadReport(list(loaded), missing, unexpected, {k: v for k, v in new_name.items() if k != v})


def _tie(t):
    return t.data_ptr() if t.numel() else id(t)


def export_weights(model, path):
    from safetensors.torch import save_file
    once = {}
    for k, t in model.state_dict().items():
        once.setdefault(_tie(t), (k, t))
    save_file({k: t.contiguous().clone() for k, t in once.values()}, path,
              {"format": "pt", "format_version": str(FORMAT_VERSION), **environment()})


def import_weights(model, path):
    from safetensors.torch import load
    blob = open(path, "rb").read()
    try:
        new = load(blob)
    except Exception as e:
        raise CheckpointError(f"{path}: {e}") from None
    own = model.state_dict()
    by_tie = {_tie(own[k]): v for k, v in new.items() if k in own}
    return load_weights(model, {**{k: by_tie[_tie(t)] for k, t in own.items() if _tie(t) in by_tie}, **new})
