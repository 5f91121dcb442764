"""From a jupytext percent file to the instructor's notebook.

A cell marker holds no more than ``nbgrader={"grade_id": "..."}``. What kind of cell it is, and
its points, follow from the id and the incident's toml, which is the only place that states them:

    <incident>-<check>          a check: locked, graded, the check's points
    <incident>-<check>-answer   where the learner writes a prediction
    <incident>-cause            the root cause in the learner's words, graded by hand
    anything else               read-only
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from grader import registry

KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


class SourceError(Exception):
    """A notebook's source is not what a release needs."""


def read(path: Path) -> NotebookNode:
    """The notebook that ``path`` (a percent .py) describes, with complete nbgrader metadata."""
    nb = jupytext.reads(path.read_text(encoding="utf-8"), fmt="py:percent")
    incident = next((i for i in registry.incidents().values() if i.notebook == path.stem), None)
    if incident is None:
        raise SourceError(f"{path.name}: no incidents/{path.stem}.toml")
    checks = {check.grade_id: check for check in incident.checks}
    seen: set[str] = set()
    for cell in nb.cells:
        cell.metadata.pop("lines_to_next_cell", None)
        if "nbgrader" not in cell.metadata:
            continue
        grade_id = cell.metadata.nbgrader.get("grade_id")
        if not grade_id or grade_id in seen:
            raise SourceError(f"{path.name}: grade_id {grade_id!r} is missing or used twice")
        seen.add(grade_id)
        cell.metadata.nbgrader = NotebookNode(_metadata(grade_id, cell, checks, incident))
    if missing := set(checks) - seen:
        raise SourceError(f"{path.name} has no cell for {', '.join(sorted(missing))}")
    return normalise(nb, path.stem)


def _metadata(
    grade_id: str, cell: NotebookNode, checks: dict[str, Any], incident: registry.Incident
) -> dict[str, Any]:
    data = {
        "grade_id": grade_id,
        "schema_version": 3,
        "task": False,
        "grade": False,
        "solution": False,
        "locked": True,
    }
    if grade_id in checks:
        check = checks[grade_id]
        if f'check("{check.id}"' not in cell.source:
            raise SourceError(f'{grade_id}: the cell does not call check("{check.id}")')
        hidden = "### BEGIN HIDDEN TESTS" in cell.source
        if hidden != check.hidden:
            raise SourceError(f"{grade_id}: hidden in one of the cell and the toml, not in both")
        data |= {"grade": True, "points": check.points}
    elif grade_id.endswith("-answer"):
        data |= {"solution": True, "locked": False}
    elif grade_id == f"{incident.name}-cause":
        data |= {
            "grade": True,
            "solution": True,
            "locked": False,
            "points": incident.written_points,
        }
    return data


def normalise(nb: NotebookNode, stem: str) -> NotebookNode:
    """The same notebook gives the same bytes: ids from grade_id or position, no tool's metadata."""
    nb.metadata = NotebookNode({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    nb.nbformat, nb.nbformat_minor = 4, 5
    for number, cell in enumerate(nb.cells):
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        # The format allows 64 characters; a hash keeps ids of unnamed cells apart.
        cell.id = grade_id[:64] if grade_id else _hashed(stem, number)
        cell.metadata.pop("execution", None)
    return nb


def _hashed(stem: str, number: int) -> str:
    return hashlib.sha256(f"{stem} {number}".encode()).hexdigest()[:12]


def dumps(nb: NotebookNode) -> str:
    """The notebook as the text of its file."""
    nbformat.validate(nb)
    return nbformat.writes(nb, version=nbformat.NO_CONVERT, sort_keys=True, indent=1) + "\n"
