"""A CSV file a notebook, for a learning management system: student_id, points, max_points.

Points are the gradebook's where there is one: the checks' and those given by hand. Where something
was not decided the points stay empty: an import must not turn that into a 0.
"""

from __future__ import annotations

import contextlib
import csv
import io
from collections.abc import Container
from pathlib import Path

from grader.classroom.config import ASSIGNMENT
from grader.report.collect import Chapter

FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(value: str) -> str:
    """A value that a spreadsheet will not take for a formula: one is quoted by an apostrophe."""
    return f"'{value}" if value.startswith(FORMULA) else value


def render(chapter: Chapter, marks: dict[str, tuple[float, float]]) -> str:
    """The file's text. ``marks``: the gradebook's (score, highest) by student; may be empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["student_id", "points", "max_points"])
    highest = next((mark[1] for mark in marks.values()), chapter.max_points)
    for row in chapter.rows:
        points, possible = marks.get(row.student, (row.points, highest))
        undecided = row.ungradable or row.open
        writer.writerow([cell(row.student), "" if undecided else f"{points:g}", f"{possible:g}"])
    return out.getvalue()


def gradebook(
    root: Path, notebook: str, students: Container[str]
) -> tuple[dict[str, tuple[float, float]], int]:
    """({student: (score, highest)}, how many of ``students`` wait for a mark by hand); empty
    without one."""
    path = root / "gradebook.db"
    if not path.exists():
        return {}, 0
    from nbgrader.api import Gradebook, MissingEntry

    with Gradebook(f"sqlite:///{path}?timeout=60") as book, contextlib.suppress(MissingEntry):
        rows = book.notebook_submission_dicts(notebook, ASSIGNMENT)
        marks = {row["student"]: (row["score"], row["max_score"]) for row in rows}
        waiting = (row["student"] in students and row["needs_manual_grade"] for row in rows)
        return marks, sum(map(bool, waiting))
    return {}, 0
