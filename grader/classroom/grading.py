"""``course grade``: who is to be graded, by which workers, and in what order it is recorded.

Probing runs on any ``concurrent.futures`` executor. Recording is nbgrader's, and serial: it runs
here, while the workers probe the next students. No more is under way than the workers need, so
that memory does not grow with the class. Every record is on disk before it is recorded, and the
gradebook's mark after: a run that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grader import answers, registry
from grader.classroom import intake, rebuild, unit
from grader.classroom.config import ASSIGNMENT
from grader.classroom.recording import CannotRecord, Recorder
from grader.classroom.store import Record, Store
from grader.classroom.workers import CannotGrade, require_class
from grader.judge import new_seed
from grader.paths import NOTEBOOKS, ROOT, SOLUTIONS


@dataclass
class Wanted:
    """What was asked for; None and empty mean everything."""

    students: tuple[str, ...] = ()
    notebooks: tuple[str, ...] = ()
    again: bool = False
    jailed: bool = True


@dataclass
class Summary:
    """What a run did."""

    students: int = 0
    graded: int = 0  # (student, notebook) pairs that were probed
    recorded: int = 0
    unchanged: int = 0
    first_probed_at: float = 0.0  # seconds since 1970; 0: nothing was
    probing_seconds: float = 0.0  # of the workers, added up
    recording_seconds: float = 0.0
    ungradable: list[tuple[str, str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Plan:
    """One student's share of this run."""

    submission: intake.Submission
    notebooks: dict[str, dict[str, Any]]  # rebuilt, every notebook that the gradebook knows
    tasks: list[unit.Task]  # to be probed
    to_record: list[str]  # decided before, and not in the gradebook yet


class Grading:
    """One run over the class in ``root``."""

    def __init__(self, root: Path, wanted: Wanted) -> None:
        self.root, self.wanted = root, wanted
        require_class(root)
        self.store = Store(root)
        self.recorder = Recorder(root, ASSIGNMENT)
        known = self.recorder.notebooks()
        stems = {incident.notebook: incident for incident in registry.incidents().values()}
        self.incidents = {stem: stems[stem] for stem in sorted(known) if stem in stems}
        if not self.incidents:
            raise CannotGrade(
                f"The gradebook has no notebook of {ASSIGNMENT} yet. First: "
                f"nbgrader generate_assignment {ASSIGNMENT}"
            )
        if missing := sorted(set(wanted.notebooks) - set(self.incidents)):
            raise CannotGrade(f"The gradebook has no {', '.join(missing)}.")
        self.released = self._released(known)
        if missing := sorted(set(wanted.notebooks) - set(self.released)):
            raise CannotGrade(
                f"{', '.join(missing)} is not in release/{ASSIGNMENT}/: not handed out yet. "
                "`course release --only` says which notebooks are."
            )
        self.incidents = {s: i for s, i in self.incidents.items() if s in self.released}
        self.stems = [s for s in self.incidents if not wanted.notebooks or s in wanted.notebooks]
        self.submitted = root / "submitted"
        self.students = intake.students(self.submitted, ASSIGNMENT)
        if unknown := sorted(set(wanted.students) - set(self.students)):
            raise CannotGrade(f"There is no submitted/{unknown[0]}/.")
        if wanted.students:
            self.students = [s for s in self.students if s in wanted.students]
        self.seed = self.store.seed(propose=new_seed())
        self._course = _course_digest()
        self._in_gradebook = self.recorder.recorded_students()
        self.summary = Summary()

    def _released(self, known: list[str]) -> dict[str, dict[str, Any]]:
        """The notebooks that have been handed out: with weekly cuts not all that the gradebook
        knows."""
        found = {}
        for stem in known:
            try:
                found[stem] = self.recorder.released(stem)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise CannotGrade(f"The release cannot be read: {error}") from None
        if not found:
            raise CannotGrade(
                f"release/{ASSIGNMENT}/ has no notebook. First: nbgrader generate_assignment "
                f"{ASSIGNMENT} --force"
            )
        return found

    def run(
        self, executor: Executor, workers: int, told: Callable[[str, list[Record]], None]
    ) -> Summary:
        """Grade everybody; ``told`` is called once a student, with the records that are new."""
        running: dict[Future[Any], _Plan] = {}
        students = iter(self.students)
        exhausted = False
        while running or not exhausted:
            # One more than there are workers: nobody waits, and nothing piles up.
            while not exhausted and len(running) <= workers:
                student = next(students, None)
                if student is None:
                    exhausted = True
                    break
                plan = self._plan(student)
                if plan is None or not plan.tasks:
                    told(student, self._finish(plan, []) if plan else [])
                    continue
                work = unit.Unit(
                    student,
                    plan.submission.package,
                    tuple(plan.tasks),
                    self.seed,
                    self.wanted.jailed,
                )
                running[executor.submit(unit.grade, work)] = plan
            if not running:
                continue
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                plan = running.pop(future)
                records = [Record(**data) for data in future.result()]
                told(plan.submission.student, self._finish(plan, records))
        return self.summary

    def _plan(self, student: str) -> _Plan | None:
        """What is to be done for a student; None if there is nothing to grade."""
        self.summary.students += 1
        submission = intake.read(self.submitted, student, ASSIGNMENT, self.released)
        if _odd(student):
            submission.why = "nbgrader takes no student id with +, *, ?, [ or ] in it"
        for note in submission.notes:
            self.summary.notes.append((student, note))
        if submission.why:
            self._set_aside(submission)
            return None
        plan = _Plan(submission, {}, [], [])
        for stem, released in self.released.items():
            given, unread = _answers(submission, stem)
            plan.notebooks[stem] = rebuild.rebuild(released, given)
            if stem not in self.stems:
                continue
            written = [given.get(g) for g in rebuild.solution_ids(released)]
            digest = self._digest(submission, written, unread)
            record = self.store.get(student, stem)
            same = record is not None and record.digest == digest and not self.wanted.again
            if not same or not record.complete:
                plan.tasks.append(self._task(stem, digest, given, unread, submission))
            elif record.recorded != digest or student not in self._in_gradebook:
                plan.to_record.append(stem)
            else:
                self.summary.unchanged += 1
        return plan

    def _task(
        self,
        stem: str,
        digest: str,
        given: dict[str, str],
        unread: str | None,
        submission: intake.Submission,
    ) -> unit.Task:
        incident = self.incidents[stem]
        predictions = [check for check in incident.checks if check.kind == "prediction"]
        unread_package = None
        if not submission.package:
            unread_package = submission.unread.get(
                intake.PACKAGE, "there is no savepoint/ in what was handed in"
            )
        return unit.Task(
            incident=incident.name,
            digest=digest,
            answers={
                check.id: _literal(given.get(f"{check.grade_id}-answer", ""))
                for check in predictions
            },
            unread_notebook=unread,
            unread_package=unread_package,
            notes=tuple(submission.notes),
        )

    def _finish(self, plan: _Plan, records: list[Record]) -> list[Record]:
        """Store and record what a worker brought back; returns the records as they are now."""
        student = plan.submission.student
        for record in records:
            self.summary.graded += 1
            self.summary.probing_seconds += record.seconds
            first = self.summary.first_probed_at or record.graded_at
            self.summary.first_probed_at = min(first, record.graded_at)
            self.store.put(record)
        wanted = [*plan.to_record, *(record.notebook for record in records)]
        if not wanted:
            return []
        started = time.perf_counter()
        trouble = None
        try:
            submission = plan.submission
            self.recorder.record(
                student, plan.notebooks, submission.package, submission.timestamp, wanted
            )
        except CannotRecord as error:
            trouble = str(error)
        self.summary.recording_seconds += time.perf_counter() - started
        done = []
        for stem in wanted:
            record = self.store.get(student, stem)
            if trouble is None:
                record.recorded = record.digest
                self.store.put(record)
                self.summary.recorded += 1
            else:
                self.summary.ungradable.append((student, stem, trouble))
            self._list(record)
            done.append(record)
        return done

    def _list(self, record: Record) -> None:
        where = (record.student, record.notebook)
        if record.ungradable:
            self.summary.ungradable.append((*where, record.ungradable))
        else:
            self.summary.ungradable += [(*where, f"{c}: {why}") for c, why in record.open.items()]

    def _set_aside(self, submission: intake.Submission) -> None:
        """Nothing in it can be graded: said in the store and the summary, not in the gradebook."""
        for stem in self.stems:
            record = Record(
                submission.student,
                stem,
                self.incidents[stem].name,
                digest="",
                seed=self.seed,
                graded_at=round(time.time(), 3),
                ungradable=submission.why,
                notes=submission.notes,
            )
            self.store.put(record)
            self._list(record)

    def _digest(
        self, submission: intake.Submission, written: list[str | None], unread: str | None
    ) -> str:
        total = hashlib.sha256(f"{self._course} {self.seed} {unread}\n".encode())
        for name, data in sorted(submission.package.items()):
            total.update(f"{name} {len(data)}\n".encode("utf-8", "replace") + data)
        total.update(json.dumps([written, sorted(submission.unread)]).encode())
        return total.hexdigest()


def _answers(submission: intake.Submission, stem: str) -> tuple[dict[str, str], str | None]:
    """(the answers in a submitted notebook, why there are none)."""
    if stem in submission.unread:
        return {}, submission.unread[stem]
    if stem not in submission.notebooks:
        return {}, f"there is no {stem}.ipynb in what was handed in"
    try:
        return rebuild.answers(submission.notebooks[stem]), None
    except rebuild.Unreadable as error:
        return {}, f"{stem}.ipynb cannot be read: {error}"


def _literal(source: str) -> Any:
    """A prediction, as something that can be sent to a worker and printed."""
    value = answers.literal(source)
    return value if isinstance(value, str | int | float | bool | None) else repr(value)[:200]


def _odd(student: str) -> bool:
    return any(c in "+*?[]" for c in student)


def _course_digest() -> str:
    """SHA-256 over the sources that decide: another course, another verdict."""
    total = hashlib.sha256()
    places = [ROOT / "grader", NOTEBOOKS / "workbench", SOLUTIONS / "savepoint"]
    for path in sorted(p for place in places for p in place.rglob("*") if _decides(p)):
        data = path.read_bytes()
        total.update(f"{path.relative_to(ROOT)} {len(data)}\n".encode() + data)
    return total.hexdigest()


def _decides(path: Path) -> bool:
    others = {"cli", "release", "report", "classroom", "__pycache__"}
    return path.suffix in (".py", ".toml") and not others & set(path.parts)
