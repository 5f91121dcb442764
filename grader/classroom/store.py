"""A class's verdicts, on disk: what ``course grade`` decided, and what it still has to do.

    <class>/verdicts/seed.json                      {"format": 1, "seed": 123456}
    <class>/verdicts/<student>/<notebook>.json      one record, see below

One seed draws the inputs for everybody, and is kept: a run that goes on after a kill, or that
grades a late submission, asks everybody the same. Whoever knows it knows the draws: it belongs to
the instructor, like the gradebook.

A record is one student's standing in one notebook, a JSON object:

    format      1
    student     the name of the directory under submitted/
    notebook    such as "01_lr_reset"
    incident    such as "lr_reset"
    digest      SHA-256 over what was graded (the learner's package, the answers in the notebook)
                and what graded it (the course's sources, the seed): another digest, graded again
    seed        the draws' seed
    seconds     wall clock spent on this notebook's checks
    graded_at   when, in seconds since 1970 (UTC)
    verdicts    one for each check of the notebook that was decided, in the course's order: what
                ``Verdict.as_json()`` gives (check, status, points, max_points, message, hint,
                seed, seconds), and "with": "own" where the learner's own modules earned it,
                "reference" where the reference stood in for the earlier ones
    ungradable  null; or why no check at all could be decided ("there is no savepoint/ in it"),
                and then verdicts is empty: nothing is recorded as earned
    open        {check id: why}, the checks that could not be decided: a grader fault, or a
                prediction in a notebook that cannot be read. Never among the verdicts, never a
                0: the gradebook asks for a mark by hand
    notes       sentences for the instructor about what was handed in ("x.py is a symbolic link:
                not followed"); what they speak of did not keep the rest from being graded
    recorded    null, or the digest that the gradebook's marks belong to

Files are replaced whole (written beside, then renamed): after a kill there is the old record or
the new one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grader.verdict import Verdict

FORMAT = 1
FOLDER = "verdicts"


@dataclass
class Record:
    """One student's standing in one notebook; the fields are the file's keys."""

    student: str
    notebook: str
    incident: str
    digest: str
    seed: int
    seconds: float = 0.0
    graded_at: float = 0.0
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    ungradable: str | None = None
    open: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    recorded: str | None = None
    format: int = FORMAT

    @property
    def complete(self) -> bool:
        """Whether every check was decided: what was not is tried again by the next run."""
        return self.ungradable is None and not self.open

    @property
    def points(self) -> float:
        return sum(v["points"] for v in self.verdicts)

    def decided(self) -> dict[str, Verdict]:
        """The verdicts, by check id."""
        return {v["check"]: verdict(v) for v in self.verdicts}


def verdict(entry: dict[str, Any]) -> Verdict:
    """A record's entry as a Verdict."""
    return Verdict.from_json({k: v for k, v in entry.items() if k != "with"})


class Store:
    """The verdicts of the class in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.folder = directory / FOLDER

    def seed(self, propose: int | None = None) -> int | None:
        """The class's seed; if there is none yet, ``propose`` becomes it."""
        path = self.folder / "seed.json"
        found = _read(path)
        if found is not None and isinstance(found.get("seed"), int):
            return found["seed"]
        if propose is not None:
            self.set_seed(propose)
        return propose

    def set_seed(self, seed: int) -> None:
        _write(self.folder / "seed.json", {"format": FORMAT, "seed": seed})

    def path(self, student: str, notebook: str) -> Path:
        return self.folder / student / f"{notebook}.json"

    def get(self, student: str, notebook: str) -> Record | None:
        """The record, or None: none yet, one of another format, or one that cannot be read."""
        return _record(self.path(student, notebook))

    def put(self, record: Record) -> None:
        _write(self.path(record.student, record.notebook), asdict(record))

    def records(self, notebook: str | None = None) -> Iterator[Record]:
        """Every record (of one notebook), by student and notebook; one at a time in memory."""
        pattern = f"*/{notebook or '*'}.json"
        for path in sorted(self.folder.glob(pattern)):
            if (record := _record(path)) is not None:
                yield record

    def students(self) -> list[str]:
        return sorted(p.name for p in self.folder.glob("*") if p.is_dir())


def _record(path: Path) -> Record | None:
    data = _read(path)
    if data is None or data.get("format") != FORMAT:
        return None
    try:
        return Record(**data)
    except TypeError:
        return None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)
