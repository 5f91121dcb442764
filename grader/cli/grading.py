"""``course grade``: a class, from its directory."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from grader import jail_tier, registry
from grader.classroom import unit
from grader.classroom.grading import CannotGrade, Grading, Summary, Wanted, process_pool
from grader.classroom.store import Record
from grader.cli.console import say
from grader.report.page import count


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
    tier = jail_tier.find()
    if not trust and not scheduler and not tier.full:
        raise CannotGrade(
            "Submissions are untrusted code, and this machine cannot build the whole jail:\n"
            + "\n".join(f"  - {line}" for line in tier.missing)
            + "\nMend that, or grade on another machine. For submissions by people you trust: "
            "--trust-submissions (they run as you, with all that you can read and write)."
        )
    wanted = Wanted(tuple(students), tuple(_stems(notebooks)), again, jailed=not trust)
    grading = Grading(Path.cwd(), wanted)
    with _executor(jobs, scheduler) as (executor, workers), _bar(as_json) as progress:
        bar = progress.add_task("grading", total=len(grading.students))

        def told(student: str, records: list[Record]) -> None:
            progress.update(bar, advance=1, description=student[:24])
            for record in records if as_json else []:
                typer.echo(json.dumps(asdict(record)))

        summary = grading.run(executor, workers, told)
    if not as_json:
        _tell(summary, grading)
    return 1 if summary.ungradable else 0


def _stems(notebooks: list[str]) -> list[str]:
    found = []
    for what in notebooks:
        incident = registry.incidents()[registry.select(what)[0].incident]
        found.append(incident.notebook)
    return found


@contextlib.contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[tuple[Executor, int]]:
    if scheduler is None:
        with process_pool(jobs) as pool:
            yield pool, jobs
        return
    try:
        from distributed import Client
    except ImportError:
        raise CannotGrade(
            "--scheduler needs Dask: pip install 'bit-for-bit[dask]' (here and on the workers)."
        ) from None
    try:
        client = Client(scheduler, timeout="20s", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise CannotGrade(f"No Dask scheduler answers at {scheduler}: {error}") from None
    with client:
        workers = sum(client.nthreads().values())
        if not workers:
            raise CannotGrade(f"The Dask scheduler at {scheduler} has no workers.")
        try:
            yield client.get_executor(pure=False, retries=1), workers
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                client.run(unit.release_all)


def _bar(as_json: bool) -> Progress:
    return Progress(
        TextColumn("{task.description:24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=as_json or not sys.stderr.isatty(),
    )


def _tell(summary: Summary, grading: Grading) -> None:
    say(
        f"{count(summary.students, 'student')}: {count(summary.graded, 'notebook')} graded, "
        f"{summary.recorded} recorded, {summary.unchanged} unchanged."
    )
    if summary.graded:
        say(
            f"Probing took {summary.probing_seconds:.1f} s of the workers' time, "
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


def default_jobs() -> int:
    """As many workers as cores, but no more than memory for their jails allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        cores = min(cores, max(1, memory // (2 << 30)))
    return cores
