"""What incidents there are and what is checked: read from incidents/*.toml, its one source."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

INCIDENTS = Path(__file__).parent / "incidents"


@dataclass(frozen=True)
class Check:
    """One thing that must hold. ``kind`` is "core", "further" or "prediction"."""

    id: str
    kind: str
    task: str
    title: str
    points: float
    difficulty: int
    minutes: int
    hints: tuple[str, ...]
    hidden: bool = False
    module: str = ""
    options: tuple[str, ...] = ()

    @property
    def incident(self) -> str:
        return self.id.split(".", 1)[0]

    @property
    def grade_id(self) -> str:
        """The id of its cell: nbgrader allows letters, digits, hyphens and underscores."""
        return self.id.replace(".", "-")


@dataclass(frozen=True)
class Incident:
    number: int
    name: str
    title: str
    minutes: int
    seconds: int
    modules: tuple[str, ...]
    checks: tuple[Check, ...]
    misconceptions: dict[str, str]
    written_points: float
    summary: str
    checklist: str

    @property
    def notebook(self) -> str:
        """The notebook's stem, like ``01_lr_reset``."""
        return f"{self.number:02d}_{self.name}"


class UnknownName(LookupError):
    """No such incident, check or hint; the message names what there is."""


@cache
def incidents() -> dict[str, Incident]:
    """Every incident by name, in the course's order."""
    found = [_read(path) for path in sorted(INCIDENTS.glob("*.toml"))]
    return {incident.name: incident for incident in found}


def _read(path: Path) -> Incident:
    data = tomllib.loads(path.read_text(encoding="utf-8"))
    name = path.stem.split("_", 1)[1]
    checks = tuple(
        Check(
            **{
                **entry,
                "id": f"{name}.{entry['id']}",
                "hints": tuple(entry.get("hints", ())),
                "options": tuple(entry.get("options", ())),
            }
        )
        for entry in data.pop("check")
    )
    return Incident(
        number=int(path.stem[:2]),
        name=name,
        checks=checks,
        misconceptions=data.pop("misconceptions", {}),
        modules=tuple(data.pop("modules")),
        **data,
    )


@cache
def checks() -> dict[str, Check]:
    """Every check by id."""
    return {check.id: check for incident in incidents().values() for check in incident.checks}


def select(what: str | None) -> list[Check]:
    """The checks that a name asks for: a number (``1``, ``01``), a notebook or incident, an id.

    None asks for every check that the gradebook counts: the practice notebook 00 is left out.
    Raises UnknownName, with the nearest names, for anything else.
    """
    if what is None:
        return [check for i in incidents().values() if i.number for check in i.checks]
    if what in checks():
        return [checks()[what]]
    stem = what.removesuffix(".ipynb").removesuffix(".py")
    for incident in incidents().values():
        if stem in (incident.name, incident.notebook) or (
            stem.isdecimal() and int(stem) == incident.number
        ):
            return list(incident.checks)
    known = [*incidents(), *checks()]
    near = difflib.get_close_matches(what, known, n=3, cutoff=0.5)
    raise UnknownName(
        f"There is no incident or check {what!r}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + "`course check --list` shows them all."
    )


def find_hint(code: str) -> tuple[Check, str]:
    """(the check that a hint code belongs to, the misconception's sentence or "").

    A code is a check's id, alone or with a cause: ``lr_reset.momentum.not_saved``.
    """
    for check in checks().values():
        cause = code.removeprefix(check.id + ".")
        if code == check.id:
            return check, ""
        if cause != code and cause in incidents()[check.incident].misconceptions:
            return check, incidents()[check.incident].misconceptions[cause]
    near = difflib.get_close_matches(code, list(checks()), n=3, cutoff=0.4)
    raise UnknownName(
        f"There is no hint {code!r}." + (f" Did you mean {' or '.join(near)}?" if near else "")
    )
