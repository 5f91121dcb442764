"""Private helpers of compat.py. Yours may live here, or there, or not exist: no check looks."""

from __future__ import annotations

### BEGIN SOLUTION: helpers
import contextlib
import copy
import pickle
import re
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, BinaryIO

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint

from savepoint.checkpoint import CheckpointError

LEGACY_START = pickle.dumps(torch.serialization.MAGIC_NUMBER, protocol=2)


def is_sound_zip(file: BinaryIO) -> bool:
    """True: a zip file from torch.save, whole. False: the legacy format, as far as one can tell.

    Any exception means: damaged, or not a checkpoint.
    """
    start = file.read(len(LEGACY_START))
    if start == LEGACY_START:
        return False
    with zipfile.ZipFile(file) as archive:  # torch.load does not compare the checksums
        damaged = archive.testzip()
        records = {name.partition("/")[2] for name in archive.namelist()}
    if damaged:
        raise CheckpointError(f"the checksum of {damaged} is wrong")
    if "data.pkl" not in records or "constants.pkl" in records:
        raise CheckpointError("a zip archive, but not one of torch.save's")
    return True


def blocked_globals(file: BinaryIO, refusal: str, *, is_zip: bool) -> list[str]:
    """Every global of a zip file that torch blocks; of a legacy file the one it stopped at."""
    # Torch leaves "builtins." out of its message. And what it never allows (module os), even
    # where the caller does, is in the message only.
    found = re.findall(r"GLOBAL (\S+)", refusal)
    blocked = {name if "." in name else f"builtins.{name}" for name in found}
    if is_zip:
        file.seek(0)
        with contextlib.suppress(pickle.UnpicklingError):  # a pickle protocol it cannot follow
            blocked.update(get_unsafe_globals_in_checkpoint(file))
    return sorted(blocked)


def reason(error: Exception) -> str:
    """One line about an error, without torch's advice on how to turn safe reading off."""
    text = str(error).strip().partition("\n")[0]
    kind = type(error).__name__
    return kind if not text or "weights_only" in text else f"{kind}: {text}"


def version_of(checkpoint: Any, newest: int) -> int:
    """1, 2, or 3 for stamped and unstamped alike."""
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"not a checkpoint: a {type(checkpoint).__name__}, not a dict")
    if "format_version" in checkpoint:
        version, known = checkpoint["format_version"], (3,)
    elif "version" in checkpoint and "model_state_dict" not in checkpoint:
        version, known = checkpoint["version"], (2,)
    else:
        version = 3 if "model_state_dict" in checkpoint else 1
        known = (version,)
    if type(version) is int and version > newest:
        raise CheckpointError(f"written in format {version}, newer than ours, {newest}")
    if type(version) is not int or version not in known:
        raise CheckpointError(f"there never was a format version {version!r}; ours is {newest}")
    model = "model_state_dict" if version == 3 else "model"
    if not isinstance(checkpoint.get(model), Mapping):
        raise CheckpointError(f"not a checkpoint: no weights under {model!r}")
    return version


def v1_to_v2(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {**checkpoint, "version": 2, "model": _without_module(checkpoint["model"])}


def v2_to_v3(checkpoint: dict[str, Any]) -> dict[str, Any]:
    result = {key: value for key, value in checkpoint.items() if key not in ("version", "torch")}
    result["model_state_dict"] = copy.copy(result.pop("model"))
    for part in ("optimizer", "scheduler"):
        if part in result:
            result[f"{part}_state_dict"] = _plain(result.pop(part))
    if "rng" in result:
        result["rng_state"] = _plain(result.pop("rng"))
    if "loss" in result:
        result["loss"] = float(result["loss"])
    if "epoch" in result:
        result["epoch"] = _plain(result["epoch"])
    wrote = {"torch": str(checkpoint["torch"])} if "torch" in checkpoint else {}
    return {**result, "environment": wrote}


def _without_module(state_dict: Mapping[str, Any]) -> OrderedDict[str, Any]:
    bare = OrderedDict((name.removeprefix("module."), value) for name, value in state_dict.items())
    if len(bare) < len(state_dict):
        raise CheckpointError("two names in the model become one without their 'module.'")
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:  # its keys are module names, without the last dot
        bare._metadata = OrderedDict(  # type: ignore[attr-defined]
            (f"{name}.".removeprefix("module.").removesuffix("."), value)
            for name, value in metadata.items()
        )
    return bare


def _plain(value: Any) -> Any:
    """The same without NumPy: its scalars as Python's, its arrays as tensors."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        # A uint32 tensor cannot be pickled, so rng_state has NumPy's keys as int64.
        value = value.astype(np.int64) if value.dtype == np.uint32 else value.copy()
        return torch.from_numpy(value)
    if type(value) in (list, tuple):
        return type(value)(_plain(item) for item in value)
    if isinstance(value, dict):
        same = copy.copy(value)  # keeps the type, and what hangs on it
        same.update((key, _plain(item)) for key, item in value.items())
        return same
    return value


def rename(name: str, pairs: Sequence[tuple[str, str]]) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def shape(value: Any) -> Any:
    """A module's extra state may be anything; between tensors and others, the type differs."""
    return tuple(value.shape) if isinstance(value, torch.Tensor) else "no tensor"


def differences(
    own: Mapping[str, Any],
    given: Mapping[str, Any],
    allow_missing: Sequence[str],
    allow_unexpected: Sequence[str],
) -> str:
    """Every name and shape that differs and is not allowed, in groups. Empty: there is none."""
    ours = {name: shape(value) for name, value in own.items()}
    theirs = {name: shape(value) for name, value in given.items()}
    missing = [n for n in ours if n not in theirs and not matches(n, allow_missing)]
    unexpected = [n for n in theirs if n not in ours and not matches(n, allow_unexpected)]
    groups = {
        "missing (in the model only)": missing,
        "unexpected (in the file only)": unexpected,
        "of another shape": [
            f"{name}: {theirs[name]} in the file, {ours[name]} in the model"
            for name in ours
            if name in theirs and theirs[name] != ours[name]
        ],
        "likely": likely_renames(
            {name: ours[name] for name in missing}, {name: theirs[name] for name in unexpected}
        ),
    }
    return "\n".join(f"  {what}: {', '.join(listed)}" for what, listed in groups.items() if listed)


def likely_renames(missing: Mapping[str, Any], unexpected: Mapping[str, Any]) -> list[str]:
    """Pairs for ``rename`` that would make missing names of unexpected ones, the likeliest first.

    Two names go together if their tensors have one shape and most of their last parts agree.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for theirs in unexpected:
        fitting = [ours for ours in missing if missing[ours] == unexpected[theirs]]
        tails = {ours: _common_tail(theirs, ours) for ours in fitting}
        if ours := max(tails, key=lambda name: len(tails[name]), default=""):
            tail = tails[ours]
            pairs[theirs.removesuffix(tail), ours.removesuffix(tail)] += 1
    return [f"rename {old!r} to {new!r} ({count})" for (old, new), count in pairs.most_common(5)]


def _common_tail(one: str, other: str) -> str:
    """The last parts that two dotted names share."""
    tail: list[str] = []
    for a, b in zip(reversed(one.split(".")), reversed(other.split(".")), strict=False):
        if a != b:
            break
        tail.insert(0, a)
    return ".".join(tail)


def memory(value: Any) -> Any:
    """Equal for tensors that are tied: the same numbers at the same place. None: never tied."""
    if not isinstance(value, torch.Tensor) or value.numel() == 0:
        return None
    return value.data_ptr(), value.dtype, value.shape, value.stride()


### END SOLUTION
