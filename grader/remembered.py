"""What has been checked: verdicts remembered beside the learner's work, in ``.course/``.

A verdict holds for the files that it was reached on. With each goes a digest of the incident's
modules and of all in the package that they import: once one of these changes, the verdict is
history, and a pass is no longer shown as one.

The file is a log, one JSON object a line: a kernel, ``course watch`` and ``course check`` append
to it side by side, and a line that a full disk or a kill cut short spoils itself alone.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grader import answers, explain, paths, registry
from grader.registry import Check, Incident
from grader.verdict import Status, Verdict

STATE = ".course"
LOG = "verdicts.jsonl"
MAX_LOG = 1 << 20  # bytes; then all but each check's last verdict are dropped


def is_copy(root: Path) -> bool:
    """Whether ``root`` is somebody's copy of the course, where things may be remembered."""
    if root in (paths.SOLUTIONS, paths.NOTEBOOKS):
        return False
    # Stock autograding runs notebooks in a class's directories: nothing is to be left there.
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        return False
    if (root / STATE).is_dir():
        return True
    # A folder fetched through nbgrader has no .course yet; a bare package never gets one.
    return any((root / f"{i.notebook}.ipynb").exists() for i in registry.incidents().values())


def digest(incident: Incident, root: Path) -> str:
    """SHA-256 of what a verdict on this incident depends on, as it is on disk now."""
    package = root / "savepoint"
    seen: dict[str, bytes] = {}
    # An incident without modules of its own, the lab, runs the whole package.
    waiting = ["__init__", *(incident.modules or sorted(p.stem for p in package.glob("*.py")))]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        path = package / f"{name}.py"
        if not path.is_file():
            path = package / name / "__init__.py"
        try:
            seen[name] = path.read_bytes()
        except OSError:
            seen[name] = b""
        waiting += _imported(seen[name])
    total = hashlib.sha256()
    for name in sorted(seen):
        total.update(f"{name} {len(seen[name])}\n".encode() + seen[name])
    return total.hexdigest()


@functools.lru_cache(maxsize=64)  # a tenth of a light check, and most modules stay as they are
def _imported(source: bytes) -> frozenset[str]:
    """Names of the package's modules that ``source`` imports, wherever it does."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = "savepoint" if node.level else ""
            module = ".".join(part for part in (start, node.module or "") if part)
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        # `from savepoint import files` and `from savepoint.files import save` both name a module
        # second; where that is a function of the package itself, there is no such file: harmless.
        found |= {
            parts[1] for n in names if (parts := n.split("."))[0] == "savepoint" and parts[1:]
        }
    return frozenset(found)


def remember(verdict: Verdict, root: Path, of: str) -> None:
    """Append a verdict that was reached on files with the digest ``of``. Never raises."""
    check = registry.checks()[verdict.check]
    if verdict.status is Status.GRADER_FAULT or not is_copy(root):
        return
    entry = {**verdict.as_json(), "digest": "" if check.kind == "prediction" else of}
    entry = {k: v for k, v in entry.items() if k != "message"} | {"when": round(time.time())}
    with contextlib.suppress(OSError):
        (root / STATE).mkdir(exist_ok=True)
        log = root / STATE / LOG
        if log.exists() and log.stat().st_size > MAX_LOG:
            _compact(log)
        # One write of one line, appended: writers side by side do not mix.
        with log.open("ab", buffering=0) as file:
            file.write(json.dumps(entry).encode() + b"\n")


def _compact(log: Path) -> None:
    kept = "".join(json.dumps(entry) + "\n" for entry in _last(log).values())
    fresh = log.with_suffix(f".{os.getpid()}")
    fresh.write_text(kept, encoding="utf-8")
    fresh.replace(log)


def _last(log: Path) -> dict[str, dict[str, Any]]:
    """Each check's last verdict in the log."""
    found: dict[str, dict[str, Any]] = {}
    with contextlib.suppress(OSError):
        for line in log.read_bytes().splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                found[registry.checks()[entry["check"]].id] = entry
    return found


@dataclass(frozen=True)
class Standing:
    """Where one check stands. ``stale``: the files have changed since the verdict."""

    check: Check
    status: Status | None
    stale: bool
    hint: str | None = None
    when: float = 0.0  # of the verdict, in seconds since 1970

    @property
    def passed(self) -> bool:
        return self.status is Status.PASSED and not self.stale

    @property
    def word(self) -> str:
        if self.status is None:
            return "not checked"
        return f"{self.status}, then changed" if self.stale else str(self.status)

    @property
    def mark(self) -> str:
        if self.passed:
            return "✓"
        return "·" if self.status in (None, Status.NOT_IMPLEMENTED) or self.stale else "✗"


@dataclass(frozen=True)
class Chapter:
    """Where one notebook stands."""

    incident: Incident
    standings: tuple[Standing, ...]

    @property
    def points(self) -> float:
        return sum(s.check.points for s in self.standings if s.passed)

    @property
    def max_points(self) -> float:
        return sum(s.check.points for s in self.standings)

    @property
    def required(self) -> tuple[Standing, ...]:
        """All but the further tasks."""
        return tuple(s for s in self.standings if s.check.kind != "further")

    @property
    def done(self) -> bool:
        return all(s.passed for s in self.required)

    @property
    def stale(self) -> int:
        """How many verdicts are out of date."""
        return sum(s.stale for s in self.required)

    @property
    def minutes_left(self) -> int:
        """The card's minutes, less the share whose checks pass, weighed by their own minutes."""
        whole = sum(s.check.minutes for s in self.required)
        left = sum(s.check.minutes for s in self.required if not s.passed)
        return round(self.incident.minutes * left / whole) if whole else 0


def standings(root: Path) -> list[Chapter]:
    """Where every notebook stands in the copy at ``root``, from what is on disk. Runs nothing."""
    last = _last(root / STATE / LOG)
    return [
        Chapter(incident, tuple(_standing(c, root, last, now) for c in incident.checks))
        for incident in registry.incidents().values()
        for now in [digest(incident, root)]
    ]


def _standing(check: Check, root: Path, last: dict[str, dict[str, Any]], now: str) -> Standing:
    entry = last.get(check.id)
    if check.kind == "prediction":
        # Committing is all that it asks, and a later edit does not undo it.
        notebook = root / f"{registry.incidents()[check.incident].notebook}.ipynb"
        given = explain.prediction(check, answers.committed(check, notebook))[0]
        if given is Status.PASSED or (entry and entry.get("status") == Status.PASSED):
            return Standing(check, Status.PASSED, stale=False)
        return Standing(check, Status.NOT_IMPLEMENTED if entry else None, stale=False)
    try:
        status = Status(entry["status"]) if entry else None
    except (KeyError, ValueError):
        return Standing(check, None, stale=False)
    hint = entry.get("hint") if entry else None
    return Standing(
        check,
        status,
        stale=bool(entry) and entry.get("digest") != now,
        hint=hint if isinstance(hint, str) else None,
        when=float(entry.get("when") or 0) if entry else 0.0,
    )
