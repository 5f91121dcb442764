"""Old, foreign and damaged checkpoints: read safely, brought up to date, loaded with a report
(notebook 05).

Three formats of checkpoint are about:

- **v1**, no version key: ``epoch``, ``model``. It was written from inside
  DistributedDataParallel, so every name in ``model`` starts with ``module.``
- **v2**, ``version`` = 2: ``epoch``, ``model`` (no prefix), and optionally ``optimizer``,
  ``scheduler`` (may be None), ``loss`` (often a ``np.float64``), ``rng`` = ``{"python":
  random.getstate(), "numpy": np.random.get_state(), "torch": tensor, "cuda": [tensor, ...]}``,
  ``torch`` (the ``torch.__version__`` that wrote it)
- **v3**, ``format_version`` = 3, or none but ``model_state_dict``: what ``save_checkpoint``
  writes, with ``format_version`` and ``environment``
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import nn

from savepoint.checkpoint import CheckpointError

### BEGIN SOLUTION: imports
# isort: split
import pickle
from collections import OrderedDict
from pathlib import Path

import safetensors
import safetensors.torch

from savepoint import compat_steps as steps

### END SOLUTION

FORMAT_VERSION = 3


class UnsafeCheckpointError(CheckpointError):
    """A sound file that safe reading refuses. ``globals`` names what it refused, dotted."""

    def __init__(self, message: str, globals: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.globals: list[str] = list(globals)


@dataclass(frozen=True)
class LoadReport:
    """What ``load_weights`` did. Every name is the name after renaming."""

    loaded_keys: list[str]  # now from the file
    missing_keys: list[str]  # in the model only; kept their values
    unexpected_keys: list[str]  # in the file only; ignored
    renamed: dict[str, str]  # name in the file -> name after renaming, where they differ


def environment() -> dict[str, str]:
    """Where this process runs. Plain strings, so that any checkpoint may carry them."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # a TorchVersion, which torch.load refuses
        "numpy": str(np.__version__),
        "platform": platform.platform(),
    }


def safe_load(path: str | PathLike[str], *, map_location: Any = "cpu") -> Any:
    """What a checkpoint file holds, read with ``weights_only=True``, or an error that helps.

    Reads what ``torch.save`` writes today (a zip archive) and what it wrote before torch 1.6
    (the legacy format; ``torch.save(..., _use_new_zipfile_serialization=False)`` still does).
    ``map_location`` is ``torch.load``'s. Nothing from the file runs, whatever the outcome.
    Globals that the caller has allowed with ``torch.serialization.safe_globals`` are allowed;
    the function allows none of its own.

    Raises

    - ``FileNotFoundError``: there is no such file.
    - ``CheckpointError``, and not ``UnsafeCheckpointError``: the file is damaged (truncated, a
      flipped bit, empty) or not a checkpoint (a text, a picture). A zip file holds a checksum
      of each record. If one is wrong the file is damaged, even if it would have been refused as
      well. The legacy format holds none: there only what cannot be read is damaged, and a file
      that is both damaged and refused may be called either.
    - ``UnsafeCheckpointError``: the file is sound, and safe reading refuses it. Its ``globals``
      and its message hold the full dotted name (``"module.Class"``) of *every* global that is
      blocked, in any order; of a legacy file at least the first. The names are the ones to be
      allowed: ``builtins.getattr``, also where the pickle says ``__builtin__``. The message
      says what to do: allow those names with ``torch.serialization.safe_globals``, or re-save
      the file in the environment that wrote it.

    Left open, either of the two: a plain pickle, which torch.save did not write, and a text that
    begins like one (``"cat\\ndog\\n"``); a TorchScript archive; a pickle protocol that safe
    reading cannot follow (4 and later).

    No message, and no traceback printed with it, mentions the switch that turns safe reading
    off, not even to warn of it: people in a hurry copy what they see.
    """
    ### BEGIN SOLUTION: 05_version_breakage, task 1: tell damaged from unsafe, and load neither
    with Path(path).open("rb") as file:
        try:
            is_zip = steps.is_sound_zip(file)
        except Exception as error:
            text = f"{path} is damaged, or not a checkpoint: {steps.reason(error)}"
            raise CheckpointError(text) from None
        file.seek(0)
        try:
            return torch.load(file, map_location=map_location, weights_only=True, mmap=False)
        except pickle.UnpicklingError as error:
            blocked = steps.blocked_globals(file, str(error), is_zip=is_zip)
            if not is_zip and not blocked:
                raise CheckpointError(f"{path} is damaged: its pickle cannot be read") from None
            raise _refused(path, blocked) from None
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read: {steps.reason(error)}") from None
    ### END SOLUTION


def migrate(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Bring a loaded checkpoint of any version (see the top of this file) to v3.

    v1 to v2: exactly one leading ``module.`` goes from each name in ``model``:
    ``module.sub_module.w`` becomes ``sub_module.w``, ``module.module.w`` becomes ``module.w``.

    v2 to v3:

    - ``model``, ``optimizer``, ``scheduler`` become ``<name>_state_dict``
    - ``rng`` becomes ``rng_state``, such that ``set_rng_state`` restores those generators
      exactly (see ``rng_state`` for the form)
    - ``loss`` becomes a plain ``float``
    - ``version`` and ``torch`` go. ``environment`` says where the file was *written*:
      ``{"torch": "1.13.1"}`` from v2's ``torch`` (exactly a ``str``), otherwise ``{}``; never
      the machine that migrates

    A v3 without ``format_version`` gets it, and an empty ``environment`` if it has none. A v3
    with ``format_version`` comes back equal. So ``migrate(migrate(x))`` equals ``migrate(x)``.
    (Left open: one with ``format_version`` and no ``environment``, which may get an empty one;
    and a file that has ``version`` = 2 and ``model_state_dict``.)

    In every version ``epoch`` means the same, and goes through unchanged. A part that the file
    does not hold stays absent: never None, never invented (a ``scheduler`` that is None is
    there, and stays None). Keys that no version knows are kept as they are. Where a v1 file
    holds a part that only v2 knows, it may be treated as v2's or kept: no check looks.

    The result loads under ``torch.load``'s default as long as the unknown keys do. (In a v2
    file NumPy's types are in ``loss`` and ``rng``; no check puts them anywhere else.)
    ``checkpoint`` and everything in it stay as they were, and no generator moves. The result
    may share tensors and other values with it.

    Raises ``CheckpointError`` for a newer version (the message has that version and ours), for
    a version that never was (0, ``"2"``, ``version`` = 1, ...), and for what is not a
    checkpoint: not a dict, or one without a dict of weights in it.
    """
    ### BEGIN SOLUTION: 05_version_breakage, task 2: bring v1 and v2 to v3, one step a version
    version = steps.version_of(checkpoint, FORMAT_VERSION)
    if version == 1:
        checkpoint, version = steps.v1_to_v2(checkpoint), 2
    if version == 2:
        checkpoint = steps.v2_to_v3(checkpoint)
    if "format_version" in checkpoint:
        return dict(checkpoint)
    return {"environment": {}, **checkpoint, "format_version": FORMAT_VERSION}
    ### END SOLUTION


def load_weights(
    model: nn.Module,
    state_dict: Mapping[str, Any],
    *,
    rename: Sequence[tuple[str, str]] = (),
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
) -> LoadReport:
    """Load weights whose names may differ, without one difference going unnoticed.

    ``rename``: pairs ``(old_prefix, new_prefix)``. Each name in ``state_dict`` takes the first
    pair whose ``old_prefix`` it starts with, once, at its start only. The empty prefix matches
    every name. A pair that matches nothing is fine. Two names that become one are a
    ``CheckpointError``.

    ``allow_missing``, ``allow_unexpected``: shell patterns as in ``fnmatch.fnmatchcase``
    (``"head.*"``, ``"*.num_batches_tracked"``), matched against whole names *after* renaming.
    A pattern that matches nothing is fine. A bare string in place of a list is a ``TypeError``.

    Every name that is missing (in the model only) or unexpected (in ``state_dict`` only) and
    not allowed, and every tensor whose shape differs from the model's (1 and () differ too;
    no pattern allows it), goes into *one* ``CheckpointError``, which names them all; for a
    shape the name and both shapes, the numbers in order (``(2, 3)`` or ``[2, 3]``). Then
    nothing has been loaded: every tensor of the model is as it was.

    Otherwise loads in place: parameters stay the same objects, tied ones stay tied, dtype and
    device stay the model's. ``state_dict`` is not changed.

    Returns a ``LoadReport``; its lists may be in any order.
    """
    ### BEGIN SOLUTION: 05_version_breakage, task 3: compare every name and shape, then load
    for patterns in (allow_missing, allow_unexpected):
        if isinstance(patterns, str):
            raise TypeError(f"expected a list of patterns, not the bare string {patterns!r}")
    own = model.state_dict()
    new_names = {name: steps.rename(name, rename) for name in state_dict}
    given = {new_names[name]: value for name, value in state_dict.items()}
    if len(given) < len(new_names):
        merged = [new for new in given if list(new_names.values()).count(new) > 1]
        raise CheckpointError(f"renaming makes one name of several: {', '.join(merged)}")

    missing = [name for name in own if name not in given]
    unexpected = [name for name in given if name not in own]
    loaded = [name for name in given if name in own]
    problems = steps.differences(own, given, allow_missing, allow_unexpected)
    if problems:
        raise CheckpointError(f"the weights do not fit the model:\n{problems}")

    matching = OrderedDict((name, given[name]) for name in loaded)
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:  # each module's own format version, which it migrates by
        matching._metadata = OrderedDict(  # type: ignore[attr-defined]
            (steps.rename(f"{name}." if name else "", rename).removesuffix("."), value)
            for name, value in metadata.items()
        )
    model.load_state_dict(matching, strict=False)
    renamed = {old: new for old, new in new_names.items() if old != new}
    return LoadReport(loaded, missing, unexpected, renamed)
    ### END SOLUTION


def export_weights(model: nn.Module, path: str | PathLike[str]) -> None:
    """Write everything in ``model.state_dict()`` to one safetensors file. Further (no points).

    Values, shapes and dtypes are exact. Tensors that are tied (the same memory under several
    names) are stored once, under one of their names. Non-contiguous tensors are fine. The
    file's metadata, all strings, holds at least ``format`` = ``"pt"``, ``format_version`` and
    the entries of ``environment()``. The model is unchanged, its memory layout included.
    """
    ### BEGIN SOLUTION: 05_version_breakage, further: store every tensor once, as safetensors
    tensors = {}
    stored = set()
    for name, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise CheckpointError(f"{name} is no tensor, and safetensors holds nothing else")
        if steps.memory(value) not in stored:
            # A copy: tensors that merely overlap may not be stored as they are.
            tensors[name] = value.detach().clone(memory_format=torch.contiguous_format)
            stored |= {steps.memory(value)} - {None}
    metadata = {**environment(), "format": "pt", "format_version": str(FORMAT_VERSION)}
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    ### END SOLUTION


def import_weights(model: nn.Module, path: str | PathLike[str]) -> LoadReport:
    """Load what ``export_weights`` wrote, in place, exactly. Further (no points).

    Into a model that is tied like the exported one, all names have their values and are still
    tied, and ``loaded_keys`` has them all. As strict as ``load_weights``: names or shapes that
    differ, a truncated file, or one that is not safetensors are a ``CheckpointError``, and
    nothing has been loaded. No such file: ``FileNotFoundError``. (Whether a model that is not
    tied takes a tied model's file is left open. A flipped bit is not seen: safetensors has no
    checksum.)
    """
    ### BEGIN SOLUTION: 05_version_breakage, further: load a safetensors file, ties and all
    with Path(path).open("rb"):
        pass
    try:
        tensors = safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{path} is damaged, or not a safetensors file: {error}") from error
    own = model.state_dict()
    stored = {steps.memory(own[name]): name for name in tensors if name in own}
    for name, value in own.items():
        memory = steps.memory(value)
        if name not in tensors and memory is not None and memory in stored:
            tensors[name] = tensors[stored[memory]]
    return load_weights(model, tensors)
    ### END SOLUTION


### BEGIN SOLUTION: helpers
def _refused(path: str | PathLike[str], blocked: list[str]) -> UnsafeCheckpointError:
    what = ", ".join(blocked) or "pickle instructions outside what torch.save writes"
    return UnsafeCheckpointError(
        f"{path} is refused, since reading it would run code: {what}. If you trust these names, "
        "allow them with torch.serialization.safe_globals([...]); or re-save the file, as plain "
        "tensors, numbers and strings, in the environment that wrote it.",
        blocked,
    )


### END SOLUTION
