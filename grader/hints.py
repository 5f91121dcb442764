"""Hints: three rungs a check, each asked for, remembered beside the learner's work."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from grader import paths, registry


def next_hint(code: str, rung: int | None = None) -> str:
    """The next rung for a hint code (or rung 1, 2 or 3), as text. Raises UnknownName."""
    check, misconception = registry.find_hint(code)
    seen = _seen()
    if rung is None:
        rung = min(seen.get(check.id, 0) + 1, len(check.hints))
    rung = max(1, min(rung, len(check.hints)))
    _remember({**seen, check.id: max(rung, seen.get(check.id, 0))})
    lines = [f"{check.id}: {check.title}"]
    if misconception:
        lines.append(misconception)
    lines.append(f"Hint {rung} of {len(check.hints)}: {check.hints[rung - 1]}")
    if rung < len(check.hints):
        lines.append("Ask again for the next one.")
    elif check.kind != "prediction":
        lines.append(f"That was the last. The reference: course solution {check.id} --anyway")
    return "\n".join(lines)


def seen(check_id: str) -> int:
    """How many of a check's hints have been shown."""
    return _seen().get(check_id, 0)


def pending() -> str | None:
    """The code to ask about when none is named: of the notebook that was checked last, what failed
    first; else what is not there yet. A pass that has gone stale is no failure."""
    from grader import remembered
    from grader.verdict import Status

    open_: list[remembered.Standing] = []
    with contextlib.suppress(paths.NoPackage):
        for chapter in remembered.standings(paths.package_root()):
            open_ += [s for s in chapter.required if s.status not in (None, Status.PASSED)]
    if open_:
        latest = max(open_, key=lambda s: s.when).check.incident
        open_ = [s for s in open_ if s.check.incident == latest]
    # A prediction asks for a letter and no help, as long as something else is open.
    open_.sort(key=lambda s: s.check.kind == "prediction")
    begun = [s for s in open_ if s.status is not Status.NOT_IMPLEMENTED]
    for standing in begun or open_:
        return standing.hint or standing.check.id
    return None


def _file() -> Path | None:
    with contextlib.suppress(paths.NoPackage):
        root = paths.package_root()
        if root not in (paths.SOLUTIONS, paths.NOTEBOOKS):
            return root / ".course" / "hints.json"
    return None


def _seen() -> dict[str, int]:
    file = _file()
    with contextlib.suppress(OSError, ValueError, TypeError):
        if file:
            found = json.loads(file.read_text(encoding="utf-8"))
            return {str(k): int(v) for k, v in found.items()} if isinstance(found, dict) else {}
    return {}


def _remember(seen: dict[str, int]) -> None:
    file = _file()
    with contextlib.suppress(OSError):
        if file:
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(seen, indent=1), encoding="utf-8")
