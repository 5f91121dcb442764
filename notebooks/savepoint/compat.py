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
    raise NotImplementedError("05_version_breakage, task 1: tell damaged from unsafe, and load neither")


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
    raise NotImplementedError("05_version_breakage, task 2: bring v1 and v2 to v3, one step a version")


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
    raise NotImplementedError("05_version_breakage, task 3: compare every name and shape, then load")


def export_weights(model: nn.Module, path: str | PathLike[str]) -> None:
    """Write everything in ``model.state_dict()`` to one safetensors file. Further (no points).

    Values, shapes and dtypes are exact. Tensors that are tied (the same memory under several
    names) are stored once, under one of their names. Non-contiguous tensors are fine. The
    file's metadata, all strings, holds at least ``format`` = ``"pt"``, ``format_version`` and
    the entries of ``environment()``. The model is unchanged, its memory layout included.
    """
    raise NotImplementedError("05_version_breakage, further: store every tensor once, as safetensors")


def import_weights(model: nn.Module, path: str | PathLike[str]) -> LoadReport:
    """Load what ``export_weights`` wrote, in place, exactly. Further (no points).

    Into a model that is tied like the exported one, all names have their values and are still
    tied, and ``loaded_keys`` has them all. As strict as ``load_weights``: names or shapes that
    differ, a truncated file, or one that is not safetensors are a ``CheckpointError``, and
    nothing has been loaded. No such file: ``FileNotFoundError``. (Whether a model that is not
    tied takes a tied model's file is left open. A flipped bit is not seen: safetensors has no
    checksum.)
    """
    raise NotImplementedError("05_version_breakage, further: load a safetensors file, ties and all")
