"""A manager's directory, through one process and the next, as it is seen from outside."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from grader.client import Report
from grader.evidence import Evidence, names
from grader.judge import Failed, Trial, Wrong

SPEC = {"optimizer": "sgd", "lr": 0.05, "schedule": "step", "noise": False}
SECONDS = 30  # a save may be slow
NAME = re.compile(r"(?:.*/)?(step|best)-([0-9]+)\.pt")
BATCH, WIDTH, CLASSES = 8, 6, 4


def save(number: int, metric: float | None = None, *, kind: str = "float", **more: Any) -> dict:
    """The event of one save, numbered by its epoch unless ``step`` says otherwise."""
    event = {"do": "save", "epoch": number, **more}
    return event if metric is None else event | {"metric": [kind, float(metric).hex()]}


def draw_data(trial: Trial, steps: int, suffix: str = "") -> dict[str, np.ndarray]:
    x = trial.rng.standard_normal((steps, BATCH, WIDTH)).astype(np.float32)
    return {f"x{suffix}": x, f"y{suffix}": trial.rng.integers(0, CLASSES, (steps, BATCH))}


def numbers(files: Iterable[str], kind: str = "step", directory: str = "run") -> list[int]:
    """The numbers of the checkpoints of one kind, in order; padded names may repeat one."""
    found = []
    for name in files:
        match = NAME.fullmatch(name)
        if match and match[1] == kind and name.rpartition("/")[0] == directory:
            found.append(int(match[2]))
    return sorted(found)


def file_of(files: Iterable[str], number: int, kind: str = "step", directory: str = "run") -> str:
    """The name of one checkpoint. Raises LookupError."""
    for name in files:
        match = NAME.fullmatch(name)
        here = name.rpartition("/")[0] == directory
        if here and match and match[1] == kind and int(match[2]) == number:
            return name
    raise LookupError(f"{kind}-{number}.pt")


class Directory:
    """One run's checkpoint directory. Each ``process`` is a fresh one, on what the last left."""

    def __init__(self, trial: Trial, *, spec: dict[str, Any] | None = None, **manager: Any) -> None:
        self.trial, self.manager, self.spec = trial, manager, spec or SPEC
        self.seed = trial.draw_seed()
        self.files: dict[str, bytes] = {}
        self.left: list[str] = []
        self.data = draw_data(trial, 4)

    def copy(self) -> Directory:
        other = object.__new__(Directory)
        other.__dict__ |= self.__dict__ | {"files": dict(self.files), "left": list(self.left)}
        return other

    def args(self, script: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
        base = {"spec": self.spec, "seed": self.seed, "managers": {"run": self.manager}}
        return base | {"script": list(script)} | more

    def process(self, *script: dict[str, Any], probe: str = "manage", **more: Any) -> list[Any]:
        """Run the script in a new process; return its log. Raises Failed."""
        evidence = self.evidence(*script, probe=probe, **more)
        return evidence.facts["log"]

    def evidence(self, *script: dict[str, Any], probe: str = "manage", **more: Any) -> Evidence:
        evidence = self.trial.probe(
            f"storage_blowup{'_mirror' if probe != 'manage' else ''}.{probe}",
            self.args(script, **more),
            tensors=self.data,
            files=self.files,
            seconds=SECONDS,
        )
        self.files, self.left = evidence.files, evidence.left()
        return evidence

    def killed(self, *script: dict[str, Any], probe: str = "manage", **more: Any) -> bool:
        """Run a script that may be killed on its way; say whether it was."""
        report: Report = self.trial.attempt(
            f"storage_blowup{'_mirror' if probe != 'manage' else ''}.{probe}",
            self.args(script, **more),
            tensors=self.data,
            files=self.files,
            seconds=SECONDS,
        )[0]
        dead = report.outcome == "exited" and report.details.get("exit_code") in (-9, 137)
        if not dead and report.outcome != "ok":
            raise Failed(report)
        self.files = report.files
        self.left = [str(entry[0]) for entry in report.listing]
        if not dead:
            for entry in report.facts.get("log", []):
                require_saved(entry, "A save in which nothing went wrong")
        return dead

    def damaged(self, files: dict[str, str]) -> None:
        """Damage some of the files: "flip" a bit, "cut" in half, "empty"."""
        evidence = self.trial.trusted(
            "storage_blowup.damage", {"files": files}, files=self.files, seconds=SECONDS
        )
        self.files = evidence.files

    def look(self) -> Evidence:
        """Which files are whole, and what is in them."""
        return self.trial.trusted("storage_blowup.look", files=self.files, seconds=SECONDS)

    def full(self, directory: str = "run") -> list[int]:
        return numbers(self.left, "step", directory)

    def best(self, directory: str = "run") -> list[int]:
        return numbers(self.left, "best", directory)

    def file(self, number: int, kind: str = "step") -> str:
        return file_of(self.left, number, kind)

    def others(self) -> list[str]:
        """Everything that is no checkpoint."""
        return [name for name in self.left if not NAME.fullmatch(name)]


def shown(found: Iterable[int], limit: int = 12) -> str:
    """Numbers of files, for a message."""
    return names((str(number) for number in found), limit) or "none"


def require_saved(entry: dict[str, Any], case: str, cause: str = "") -> None:
    """A save that should have worked must not have raised."""
    if entry["raised"]:
        raise Wrong(f"{case}: save raised {entry['raised']}: {entry['text']}", cause)


def require_all_saved(log: Iterable[dict[str, Any] | None], case: str, cause: str = "") -> None:
    for entry in log:
        if entry is not None:
            require_saved(entry, case, cause)


def number_in(name: Any) -> int | None:
    """The number in a file's name, as a function returned it."""
    match = NAME.fullmatch(name) if isinstance(name, str) else None
    return int(match[2]) if match else None
