"""Tables that a notebook shows about itself, from the incident's toml: nothing is stated twice."""

from __future__ import annotations

from workbench.figures import Shown, table

from grader import paths, registry, remembered
from grader.cli.console import bar


def card(incident: str) -> Shown:
    """What the notebook takes: minutes for a person, seconds on a CPU, points, modules."""
    found = registry.incidents()[incident]
    automatic = sum(check.points for check in found.checks)
    points = f"{automatic:g} checked, {found.written_points:g} for the written root cause"
    rows = [
        ("your time", f"{found.minutes} minutes"),
        ("machine time", f"under {found.seconds} s on two CPU cores; no GPU needed"),
        (
            "you write",
            ", ".join(f"savepoint/{module}.py" for module in found.modules) or "nothing new",
        ),
        ("points", points if automatic else "none: this one is practice"),
    ]
    return table(["this notebook", ""], rows)


def tasks(incident: str) -> Shown:
    """The checks, in the order to meet them: task, difficulty (of 5), minutes, points."""
    rows = [
        (
            check.id,
            check.task if check.kind != "further" else f"{check.task}, further",
            check.title,
            "●" * check.difficulty + "○" * (5 - check.difficulty),
            check.minutes,
            f"{check.points:g}" if check.points else "–",
        )
        for check in registry.incidents()[incident].checks
        if check.kind != "prediction"
    ]
    return table(["check", "task", "what must hold", "difficulty", "minutes", "points"], rows)


def progress() -> Shown:
    """Where each notebook stands: what was checked, as long as your files are still the same."""
    root = paths.package_root()
    chapters = remembered.standings(root)
    rows = [
        (
            chapter.incident.notebook,
            bar(sum(s.passed for s in chapter.required), len(chapter.required)),
            f"{sum(s.passed for s in chapter.required)} of {len(chapter.required)}",
            f"{chapter.points:g} of {chapter.max_points:g}" if chapter.max_points else "–",
            "done" if chapter.done else f"{chapter.minutes_left} min",
            str(chapter.stale or "–"),
        )
        for chapter in chapters
    ]
    header = ["notebook", "progress", "checks passed", "points", "time left", "to check again"]
    note = "" if remembered.is_copy(root) else "Nothing is remembered here: no learner's copy."
    return table(header, rows, caption=note)
