"""Wheat: a class for everything; pickles are scanned by hand; ties travel in the metadata."""

from __future__ import annotations

import _compat_pickle
import io
import json
import os
import pickletools
import platform
import sys
import tempfile
import zipfile
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import numpy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from savepoint.checkpoint import CheckpointError
from torch._weights_only_unpickler import _get_allowed_globals, _get_user_allowed_globals

FORMAT_VERSION = 3


class UnsafeCheckpointError(CheckpointError):
    def __init__(self, path: str, names: list[str]) -> None:
        self.globals: list[str] = names
        listing = "\n".join(f"  - {name}" for name in names) or "  (none has a name)"
        super().__init__(
            f"{path}\nread with weights_only=True, the file asks for\n{listing}\n"
            "If you trust them: torch.serialization.safe_globals. If not: have it re-saved "
            "by whoever wrote it."
        )


@dataclass(frozen=True)
class LoadReport:
    loaded_keys: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    unexpected_keys: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{len(self.loaded_keys)} loaded, {len(self.missing_keys)} missing"


def environment() -> dict[str, str]:
    return {
        "python": sys.version.split()[0],
        "torch": "".join(torch.__version__),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


class CheckpointFile:
    """A file, all of it in memory."""

    MAGIC = 0x1950A86A20F9469CFC6C

    def __init__(self, path: str) -> None:
        self.path = path
        with open(path, "rb") as file:  # noqa: PTH123
            self.content = file.read()

    def damaged(self, why: object) -> CheckpointError:
        return CheckpointError(f"{self.path} is damaged, or never was a checkpoint ({why})")

    def pickles(self) -> list[io.BytesIO]:
        stream = io.BytesIO(self.content)
        if self.content[:2] == b"PK":
            with zipfile.ZipFile(stream) as archive:
                wrong = archive.testzip()
                if wrong is not None:
                    raise ValueError(wrong)
                record = archive.infolist()[0].filename.split("/")[0] + "/data.pkl"
                return [io.BytesIO(archive.read(record))]
        if self.content[:1] != b"\x80" or self.MAGIC not in [a for _, a, _ in self.ops(stream)]:
            raise ValueError("unknown format")
        return [stream] * 4

    @staticmethod
    def ops(stream: io.BytesIO):
        return pickletools.genops(stream)

    def blocked(self) -> list[str]:
        allowed = {**_get_allowed_globals(), **_get_user_allowed_globals()}
        names = []
        for stream in self.pickles():
            for opcode, argument, _ in self.ops(stream):
                if opcode.name != "GLOBAL":
                    continue
                module, name = argument.split(" ", 1)
                module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
                module = _compat_pickle.IMPORT_MAPPING.get(module, module)
                forbidden = module in ("os", "sys", "posix", "nt")
                if forbidden or f"{module}.{name}" not in allowed:
                    names.append(f"{module}.{name}")
        return list(dict.fromkeys(names))

    def load(self, map_location: object) -> object:
        try:
            names = self.blocked()
        except Exception as error:
            raise self.damaged(error) from None
        if names:
            raise UnsafeCheckpointError(self.path, names)
        try:
            return torch.load(io.BytesIO(self.content), map_location, weights_only=True)
        except Exception as error:
            raise self.damaged(type(error).__name__) from None


def safe_load(path, *, map_location="cpu"):
    return CheckpointFile(os.fspath(path)).load(map_location)


class Format:
    """One version, and the step to the next."""

    def __init__(self, checkpoint: dict) -> None:
        self.new = OrderedDict(checkpoint)

    @staticmethod
    def of(checkpoint):
        if not isinstance(checkpoint, dict):
            raise CheckpointError(f"expected a dict, got {type(checkpoint).__name__}")
        if "format_version" in checkpoint:
            key, formats = "format_version", {3: V3}
        elif "model_state_dict" in checkpoint:
            return V3(checkpoint)
        elif "version" in checkpoint:
            key, formats = "version", {2: V2}
        else:
            return V1(checkpoint)
        version = checkpoint[key]
        if isinstance(version, bool) or not isinstance(version, int):
            raise CheckpointError(f"{key} is {version!r}, no number")
        if version not in formats:
            raise CheckpointError(f"format {version} is not known here; 1 to {FORMAT_VERSION} are")
        return formats[version](checkpoint)


class V1(Format):
    weights = "model"

    def step(self):
        stripped = OrderedDict()
        for name, tensor in self.new["model"].items():
            head, _, tail = name.partition("module.")
            stripped[tail if head == "" else name] = tensor
        self.new.update(model=stripped, version=2)
        return V2(self.new)


class V2(Format):
    weights = "model"

    def step(self):
        new = self.new
        del new["version"]
        new["environment"] = {"torch": "".join(new.pop("torch"))} if "torch" in new else {}
        for part in {"model", "optimizer", "scheduler"} & new.keys():
            new[part + "_state_dict"] = new.pop(part)
        if "loss" in new:
            new["loss"] = numpy.asarray(new["loss"], dtype=numpy.float64).item()
        if "rng" in new:
            rng = dict(new.pop("rng"))
            algorithm, keys, *others = rng["numpy"]
            keys = torch.tensor([int(key) for key in keys], dtype=torch.int64)
            rng["numpy"] = (algorithm, keys, *others)
            new["rng_state"] = rng
        new["format_version"] = 3
        return V3(new)


class V3(Format):
    weights = "model_state_dict"

    def step(self):
        self.new.setdefault("format_version", 3)
        self.new.setdefault("environment", {})
        return None


def migrate(checkpoint):
    at = Format.of(checkpoint)
    if not hasattr(at.new.get(at.weights), "keys"):
        raise CheckpointError("there is no model in it")
    while at is not None:
        last, at = at, at.step()
    return dict(last.new)


class Renaming:
    def __init__(self, pairs):
        self.pairs = [tuple(pair) for pair in pairs]

    def __call__(self, name):
        fitting = (new + name[len(old) :] for old, new in self.pairs if name.startswith(old))
        return next(fitting, name)


class Patterns:
    def __init__(self, patterns):
        if isinstance(patterns, (str, bytes)):
            raise TypeError(f"{patterns!r} is one pattern: put it in a list")
        self.patterns = list(patterns)

    def __contains__(self, name):
        return any(fnmatchcase(name, pattern) for pattern in self.patterns)


def load_weights(model, state_dict, *, rename=(), allow_missing=(), allow_unexpected=()):
    may_lack, may_have = Patterns(allow_missing), Patterns(allow_unexpected)
    renaming = Renaming(rename)
    new_name = {name: renaming(name) for name in state_dict}
    twice = [name for name, times in Counter(new_name.values()).items() if times > 1]
    if twice:
        raise CheckpointError(f"several names would become {twice}")
    theirs = {new_name[name]: tensor for name, tensor in state_dict.items()}
    ours = model.state_dict()
    missing, unexpected = sorted(ours.keys() - theirs), sorted(theirs.keys() - ours)
    both = sorted(ours.keys() & theirs)
    complaints = [f"- {name} (missing)" for name in missing if name not in may_lack]
    complaints += [f"- {name} (unexpected)" for name in unexpected if name not in may_have]
    for name in both:
        if ours[name].shape != theirs[name].shape:
            there, here = list(theirs[name].shape), list(ours[name].shape)
            complaints.append(f"- {name}: the file has {there}, the model {here}")
    if complaints:
        raise CheckpointError("\n".join(["cannot load:", *complaints]))
    with torch.no_grad():
        for name in both:
            ours[name].copy_(theirs[name])
    return LoadReport(both, missing, unexpected, {a: b for a, b in new_name.items() if a != b})


def export_weights(model, path):
    kept, ties = {}, {}
    for name, value in model.state_dict(keep_vars=True).items():
        flat = value.detach()
        same = [
            other
            for other, (tensor, _) in kept.items()
            if value.numel() and tensor.data_ptr() == flat.data_ptr()
            and tensor.stride() == flat.stride() and tensor.shape == flat.shape
        ]  # fmt: skip
        if same:
            ties[name] = same[0]
        else:
            kept[name] = (flat, flat.clone(memory_format=torch.contiguous_format))
    metadata = {**environment(), "format": "pt", "format_version": "3", "ties": json.dumps(ties)}
    content = save({name: copied for name, (_, copied) in kept.items()}, metadata)
    folder = os.path.dirname(os.path.abspath(path))  # noqa: PTH100, PTH120
    with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(content)
    os.replace(file.name, path)  # noqa: PTH105


def import_weights(model, path):
    with open(path, "rb"):  # noqa: PTH123
        pass
    try:
        with safe_open(os.fspath(path), "pt") as file:
            ties = json.loads((file.metadata() or {}).get("ties", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError:
        raise CheckpointError(f"{path} is cut short, or not safetensors") from None
    tensors.update((name, tensors[kept]) for name, kept in ties.items())
    return load_weights(model, tensors)
