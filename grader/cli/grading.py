"""``course grade``: a class, from its directory."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grader import jail_tier, registry
from grader.classroom.store import Record
from grader.classroom.workers import CannotGrade, hired, require_class
from grader.cli.console import say
from grader.report.page import count

if TYPE_CHECKING:
    from grader.classroom.grading import Grading, Summary


def run(
    notebooks: list[str],
    students: list[str],
    jobs: int,
    scheduler: str | None,
    *,
    again: bool,
    trust: bool,
    as_json: bool,
) -> int:
    """Grade the class in the working directory; return the exit status."""
    started = time.time()
    tier = jail_tier.find()
    if not trust and not scheduler and not tier.full:
        raise CannotGrade(
            "Submissions are untrusted code, and this machine cannot build the whole jail:\n"
            + "\n".join(f"  - {line}" for line in tier.missing)
            + "\nMend that, or grade on another machine. For submissions by people you trust: "
            "--trust-submissions (they run as you, with all that you can read and write)."
        )
    stems = tuple(_stems(notebooks))
    require_class(Path.cwd())
    with hired(jobs, scheduler, jailed=not trust) as (executor, workers), _bar(as_json) as progress:
        # nbgrader is imported while the workers warm up.
        from grader.classroom.grading import Grading, Wanted

        wanted = Wanted(tuple(students), stems, again, jailed=not trust)
        grading = Grading(Path.cwd(), wanted)
        bar = progress.add_task("grading", total=len(grading.students))

        def told(student: str, records: list[Record]) -> None:
            progress.update(bar, advance=1, description=student[:24])
            for record in records if as_json else []:
                typer.echo(json.dumps(asdict(record)))

        summary = grading.run(executor, workers, told)
    if not as_json:
        _tell(summary, grading, started)
    return 1 if summary.ungradable else 0


def _stems(notebooks: list[str]) -> list[str]:
    found = []
    for what in notebooks:
        incident = registry.incidents()[registry.select(what)[0].incident]
        found.append(incident.notebook)
    return found


def _bar(as_json: bool) -> Progress:
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=as_json or not sys.stderr.isatty(),
    )


def _tell(summary: Summary, grading: Grading, started: float) -> None:
    say(
        f"{count(summary.students, 'student')}: {count(summary.graded, 'notebook')} graded, "
        f"{summary.recorded} recorded, {summary.unchanged} unchanged."
    )
    if summary.graded:
        say(
            f"Starting took {summary.first_probed_at - started:.1f} s, "
            f"probing {summary.probing_seconds:.1f} s of the workers' time, "
            f"recording {summary.recording_seconds:.1f} s."
        )
    say(f"The draws of this class: --seed {grading.seed} repeats them in `course check`.")
    if summary.ungradable:
        say("\nNot graded, and not recorded as a mark:")
        for student, notebook, why in _merged(summary.ungradable):
            say(f"  {student}  {notebook}  {why}")
    if summary.notes:
        say("\nAbout what was handed in:")
        for student, note in summary.notes:
            say(f"  {student}  {note}")


def _merged(rows: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """One line for a student whose every notebook has the same reason."""
    together: dict[tuple[str, str], list[str]] = {}
    for student, notebook, why in rows:
        first = why.splitlines()[0]
        names = together.setdefault((student, first), [])
        if notebook not in names:
            names.append(notebook)
    return [(student, ", ".join(names), why) for (student, why), names in together.items()]
