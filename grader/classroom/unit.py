"""One student's work, graded: what a worker does. Everything it needs comes in as plain data.

A worker is a process (or a thread of a Dask worker) that keeps a warm jail, and renews it after any
submission that did not behave. Trusted runs are forks of the same server, when all that a probe
left has been killed and emptied; their answers are remembered.
"""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

from grader import registry, scratch
from grader.classroom.fair import judge_fairly
from grader.classroom.store import Record
from grader.client import ForkServer, GraderFault, Runner
from grader.jail_runner import JailRunner, Remembering
from grader.judge import load_checks
from grader.verdict import Status

_local = threading.local()
_made: list[Runner] = []  # of every thread of this process


@dataclass(frozen=True)
class Task:
    """One notebook of one student. ``answers`` are literals, by check id; ``unread`` says why the
    answers, or the package, cannot be had."""

    incident: str
    digest: str
    answers: dict[str, Any]
    unread_notebook: str | None
    unread_package: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Unit:
    """One student: the package's files, and the notebooks to be graded."""

    student: str
    package: dict[str, bytes]
    tasks: tuple[Task, ...]
    seed: int
    jailed: bool = True


def grade(unit: Unit) -> list[dict[str, Any]]:
    """The records (as dicts) of the unit's notebooks. Runs in a worker."""
    runner, trusted = _runners(unit.jailed)
    with contextlib.suppress(GraderFault):  # each check says so of itself
        runner.wait_ready()  # the first time: no submission's time
    try:
        return [asdict(_grade(unit, task, runner, trusted)) for task in unit.tasks]
    finally:
        if isinstance(runner, JailRunner):
            runner.settle()


def _grade(unit: Unit, task: Task, runner: Runner, trusted: Runner) -> Record:
    incident = registry.incidents()[task.incident]
    started = time.perf_counter()
    record = Record(
        student=unit.student,
        notebook=incident.notebook,
        incident=incident.name,
        digest=task.digest,
        seed=unit.seed,
        graded_at=round(time.time(), 3),
        notes=list(task.notes),
    )
    for check in incident.checks:
        missing = task.unread_notebook if check.kind == "prediction" else task.unread_package
        if missing:
            record.open[check.id] = missing
            continue
        verdict, whose = judge_fairly(
            check,
            unit.package,
            runner,
            trusted_runner=trusted,
            seed=unit.seed,
            answer=task.answers.get(check.id),
        )
        if verdict.status is Status.GRADER_FAULT:
            record.open[check.id] = f"the grader failed: {verdict.message}"
        else:
            record.verdicts.append(verdict.as_json() | {"with": whose})
    if not record.verdicts and record.open:
        record.ungradable = next(iter(record.open.values()))
    record.seconds = round(time.perf_counter() - started, 3)
    return record


def _runners(jailed: bool) -> tuple[ForkServer | JailRunner, Remembering]:
    """(what runs probes, the same with a memory for trusted ones), started on first use."""
    if getattr(_local, "jailed", None) is not jailed:
        release()
        _local.runner = JailRunner() if jailed else ForkServer()
        _local.trusted = Remembering(_local.runner)
        _made.append(_local.runner)
        _local.jailed = jailed
    return _local.runner, _local.trusted


def get_ready(jailed: bool) -> None:
    """Start this worker's server, which warms up while there is nothing to grade yet."""
    _runners(jailed)
    load_checks()


def release() -> None:
    """End this worker's server."""
    if (runner := getattr(_local, "runner", None)) is not None:
        runner.close()
        _made.remove(runner)
    _local.runner = _local.trusted = _local.jailed = None


def release_all() -> None:
    """End the runners of all threads. For a Dask worker: it is killed rather than ended, and what
    its jails have on disk would stay."""
    while _made:
        _made.pop().close()
    global _local
    _local = threading.local()


def follow(parent: int) -> None:
    """In a worker process: end when its parent has, however that ended."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        scratch.remove_own()
        os._exit(1)  # the jail ends with its pipes

    threading.Thread(target=watch, daemon=True).start()
    multiprocessing.util.Finalize(None, release, exitpriority=10)
