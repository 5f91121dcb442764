"""Incident 05, task 3: drawn calls of load_weights, and what must come of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grader.checks.version_breakage_names import shown
from grader.evidence import Evidence, Raw, names
from grader.judge import Trial, Wrong

DTYPES = {"float32": "F32", "int64": "I64"}


@dataclass
class Case:
    """One call of load_weights: drawn tensors under ``own`` and ``file`` names, and its options.

    ``becomes`` maps each name in the file to its name after renaming. ``shapes`` has the shapes
    that are not drawn, by ``own:<name>`` or ``file:<name>``.
    """

    own: list[str]
    file: list[str]
    cause: str
    options: dict[str, Any] = field(default_factory=dict)
    becomes: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    buffers: list[str] = field(default_factory=list)
    ties: list[list[str]] = field(default_factory=list)
    norm: str = ""  # the part of this name is a batch norm of three features
    step: bool = False
    drawn: dict[str, np.ndarray] = field(default_factory=dict)

    def new(self, name: str) -> str:
        return self.becomes.get(name, name)

    def draw(self, trial: Trial) -> None:
        """Shapes and values: a name's shape is the same on both sides unless ``shapes`` differs."""
        shapes: dict[str, tuple[int, ...]] = {}
        trained = [name for name in self.own if name not in self.buffers] if self.step else []
        for side, listed in (("own", self.own), ("file", self.file), ("grad", trained)):
            for name in listed:
                new = self.new(name) if side == "file" else name
                drawn = tuple(int(n) for n in trial.rng.integers(1, 5, trial.rng.integers(1, 4)))
                shape = self.shapes.get(f"{side}:{name}", shapes.setdefault(new, drawn))
                values: Any = np.asarray(trial.rng.standard_normal(shape), np.float32)
                if new in self.buffers and new.endswith("num_batches_tracked"):
                    values = np.asarray(trial.rng.integers(1, 99))
                self.drawn[f"{side}:{name}"] = values
        in_file = {self.new(name): name for name in self.file}
        for first, *others in self.ties:
            for name in others:
                self.drawn[f"own:{name}"] = self.drawn[f"own:{first}"]
                self.drawn[f"file:{in_file[name]}"] = self.drawn[f"file:{in_file[first]}"]
                self.drawn.pop(f"grad:{name}", None)

    def raw(self, key: str) -> Raw:
        array = self.drawn[key]
        return Raw(DTYPES[str(array.dtype)], array.shape, array.tobytes())

    def after(self) -> dict[str, Raw]:
        """The model's tensors once all that is on both sides has been loaded."""
        wanted = {name: self.raw(f"own:{name}") for name in self.own}
        loaded = {self.new(n): self.raw(f"file:{n}") for n in self.file if self.new(n) in wanted}
        return wanted | loaded

    def said(self) -> str:
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"load_weights(model, state_dict{options})"


def run(trial: Trial, cases: dict[str, Case]) -> Evidence:
    """Have each case's call made, in a drawn order."""
    tensors, args = {}, {}
    for label in (list(cases)[int(i)] for i in trial.rng.permutation(len(cases))):
        case = cases[label]
        case.draw(trial)
        tensors |= {f"{label}:{key}": array for key, array in case.drawn.items()}
        args[label] = {
            "own": case.own,
            "file": [case.file[int(i)] for i in trial.rng.permutation(len(case.file))],
            "buffers": case.buffers,
            "ties": case.ties,
            "norm": case.norm,
            "options": case.options,
            "step": case.step,
        }
    return trial.probe("version_breakage_weights.load", {"cases": args}, tensors=tensors)


def require_loaded(case: Case, came: Evidence, label: str) -> None:
    """The call returned, and the model has the file's tensors under the right names."""
    fact = came.facts[label]
    about = f"{case.said()}; in the file: {names(case.file, 6)}; in the model: {names(case.own, 6)}"
    if fact["raised"]:
        raise Wrong(f"{about}. It raised {shown(fact)}", case.cause)
    got = came.tensors.under(f"{label}/after")
    for name, tensor in case.after().items():
        if got.get(name) != tensor:
            origin = next((n for n in case.file if case.new(n) == name), None)
            if origin is None:
                said = f"{about}. Afterwards {name}, which the file lacks, is another tensor."
                raise Wrong(said, "missing_changed")
            raise Wrong(f"{about}. Afterwards {name} is not the file's {origin}.", case.cause)


def require_refused(case: Case, came: Evidence, label: str, cause: str = "") -> dict[str, Any]:
    """The call raised a CheckpointError, and every tensor is as it was."""
    fact = came.facts[label]
    about = f"{case.said()}; in the file: {names(case.file, 6)}; in the model: {names(case.own, 6)}"
    if not fact["raised"]:
        raise Wrong(f"{about}. It returned; expected a CheckpointError.", cause or case.cause)
    if "CheckpointError" not in fact["bases"]:
        raise Wrong(f"{about}. Expected a CheckpointError; came {shown(fact)}", "wrong_exception")
    got = came.tensors.under(f"{label}/after")
    changed = [name for name in case.own if got.get(name) != case.raw(f"own:{name}")]
    if changed:
        raise Wrong(f"{about}. It raised, and had already changed {names(changed)}.", "half_loaded")
    return fact
