"""Verdicts into nbgrader's gradebook, by nbgrader's own autograde.

Every notebook of a student is staged as rebuilt from the released one, then autograded with two
preprocessors exchanged: where Execute would run the notebook, ``WriteVerdicts`` writes each
verdict as its cell's output; and ``SaveMarks`` leaves a cell without a verdict to be graded by
hand, where nbgrader would give a cell without output full marks. Gradebook, formgrader, feedback
and export then find what they always find.
"""

from __future__ import annotations

import ast
import contextlib
import html
import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import nbgrader.api
import sqlalchemy
from nbformat.v4 import new_output
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps import NbGraderAPI
from nbgrader.converters import Autograde
from nbgrader.converters.base import NbGraderException
from nbgrader.preprocessors import Execute, NbGraderPreprocessor, SaveAutoGrades
from nbgrader.utils import is_solution
from traitlets.config import Config

from grader import registry
from grader.classroom.store import Record, Store
from grader.cli import excerpt

STAGED = ".staged"
HIDDEN = re.compile(r"### BEGIN HIDDEN TESTS.*?### END HIDDEN TESTS", re.DOTALL)
INSTEAD = "# a check that is not in the notebook handed out"
MAX_SHOWN = 200  # lines of the learner's code beside a message
# nbgrader's pages use a style sheet that takes the triangle from what can be unfolded.
_SUMMARY = '<summary style="display:list-item;cursor:pointer">'


# nbgrader opens its gradebook nine times a submission. With one engine for all of them, SQLAlchemy
# keeps the statements that it has compiled: a fifth of what recording takes.
_engine = cache(sqlalchemy.create_engine)


class CannotRecord(Exception):
    """nbgrader did not take a notebook; the text says why."""


class WriteVerdicts(NbGraderPreprocessor):
    """In Execute's place: nothing runs; verdicts become outputs."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        root, student, record = _record(self, resources)
        decided = {registry.checks()[k].grade_id: v for k, v in record.decided().items()}
        undecided = {registry.checks()[k].grade_id: why for k, why in record.open.items()}
        for cell in nb.cells:
            if cell.cell_type != "code":
                continue
            cell.outputs, cell.execution_count = [], None
            # nbgrader put the source back whole; feedback is made from this notebook.
            cell.source = HIDDEN.sub(INSTEAD, cell.source)
            grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
            if grade_id in decided:
                verdict = decided[grade_id]
                page = verdict.as_html() + _own_code(root, student, verdict.check)
                # The message first, then the number, which is what nbgrader takes for the score.
                cell.outputs = [
                    new_output("display_data", data={"text/html": page}),
                    new_output("execute_result", data={"text/plain": f"{verdict.points:g}"}),
                ]
            elif grade_id in undecided:
                page = f"<div>Not graded: {html.escape(undecided[grade_id])}</div>"
                cell.outputs = [new_output("display_data", data={"text/html": page})]
        return nb, resources


class SaveMarks(SaveAutoGrades):
    """nbgrader's own, but a check without a verdict gets no mark: it asks for one by hand; and an
    answer that has its mark, and is what it was then, does not ask again."""

    before: ClassVar[dict[tuple[str, str], str]] = {}  # (notebook, grade id): as recorded last

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        decided = _record(self, resources)[2].decided()
        self._decided = {registry.checks()[check].grade_id for check in decided}
        return super().preprocess(nb, resources)

    def _add_score(self, cell: Any, resources: Any) -> None:
        grade_id = cell.metadata["nbgrader"]["grade_id"]
        where = (self.notebook_id, self.assignment_id, self.student_id)
        grade = self.gradebook.find_grade(grade_id, *where)
        marked = grade.manual_score is not None and not grade.needs_manual_grade
        if is_solution(cell) or grade_id in self._decided:
            super()._add_score(cell, resources)
            same = self.before.get((self.notebook_id, grade_id)) == cell.source
            if is_solution(cell) and marked and same:
                grade.needs_manual_grade = False
                self.gradebook.db.commit()
            return
        grade.auto_score, grade.needs_manual_grade = None, True
        self.gradebook.db.commit()


def _record(preprocessor: Any, resources: Any) -> tuple[Path, str, Record]:
    where = resources["nbgrader"]
    root = Path(preprocessor.config.CourseDirectory.root)
    record = Store(root).get(where["student"], where["notebook"])
    if record is None:
        raise CannotRecord(f"there is no verdict on {where['notebook']} of {where['student']}")
    return root, where["student"], record


class Recorder:
    """Records one student after the other in the class at ``root``."""

    def __init__(self, root: Path, assignment: str) -> None:
        self.root, self.assignment = root, assignment
        # nbgrader's own queries set these off for every new submission.
        warnings.filterwarnings("ignore", module=r"nbgrader\.")
        nbgrader.api.create_engine = _engine
        # nbgrader calls alembic by name.
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.staged = root / STAGED
        shutil.rmtree(self.staged, ignore_errors=True)  # a killed run's
        config = _config(root)
        marks = config.Autograde.get("autograde_preprocessors")
        marks = list(marks or Autograde.autograde_preprocessors.default())
        swapped = {Execute: WriteVerdicts, SaveAutoGrades: SaveMarks}
        config.Autograde.autograde_preprocessors = [swapped.get(p, p) for p in marks]
        config.NotebookExporter.optimistic_validation = True  # once, not after each preprocessor
        config.CourseDirectory.root = str(root)
        config.CourseDirectory.submitted_directory = STAGED
        config.NbGraderAPI.log_level = "ERROR"
        self._api = NbGraderAPI(config=config)
        self._log = logging.getLogger("grader.recording")
        self._log.propagate = False
        self._log.setLevel(logging.ERROR)

    @property
    def course(self) -> Any:
        return self._api.coursedir

    def gradebook(self) -> Gradebook:
        return Gradebook(self.course.db_url, self.course.course_id)

    def notebooks(self) -> list[str]:
        """The assignment's notebooks that the gradebook knows: empty before generate_assignment."""
        with self.gradebook() as book:
            try:
                return [nb.name for nb in book.find_assignment(self.assignment).notebooks]
            except MissingEntry:
                return []

    def recorded_students(self) -> set[str]:
        with self.gradebook() as book:
            return {s.student_id for s in book.assignment_submissions(self.assignment)}

    def released(self, notebook: str) -> dict[str, Any]:
        """The released notebook, as nbgrader's generate_assignment wrote it."""
        folder = self.course.format_path(self.course.release_directory, ".", self.assignment)
        return json.loads((Path(folder) / f"{notebook}.ipynb").read_text(encoding="utf-8"))

    def record(
        self,
        student: str,
        notebooks: Mapping[str, dict[str, Any]],
        package: Mapping[str, bytes],
        timestamp: bytes | None,
        only: Iterable[str],
    ) -> None:
        """Stage the student's ``notebooks``, all of them, and record ``only`` those named.

        Raises CannotRecord. What was recorded before stays.
        """
        home = self.staged / student / self.assignment
        shutil.rmtree(self.staged / student, ignore_errors=True)
        home.mkdir(parents=True)
        for name, nb in notebooks.items():
            (home / f"{name}.ipynb").write_text(json.dumps(nb), encoding="utf-8")
        for name, data in package.items():
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(data)
        if timestamp:
            (home / "timestamp.txt").write_bytes(timestamp)
        SaveMarks.before = self._written(student, notebooks)
        wanted = set(only)
        # All at once where all are wanted: nbgrader's preparations are paid for once.
        names = ["*"] if wanted == set(notebooks) else sorted(wanted)
        try:
            for name in names:
                self._autograde(student, name)
        finally:
            shutil.rmtree(self.staged / student, ignore_errors=True)

    def _written(self, student: str, notebooks: Iterable[str]) -> dict[tuple[str, str], str]:
        """{(notebook, grade id): source} of what was recorded last."""
        course = self.course
        folder = Path(course.format_path(course.autograded_directory, student, self.assignment))
        found = {}
        for name in notebooks:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                nb = json.loads((folder / f"{name}.ipynb").read_text(encoding="utf-8"))
                for cell in nb["cells"]:
                    if grade_id := cell["metadata"].get("nbgrader", {}).get("grade_id"):
                        found[name, grade_id] = "".join(cell["source"])
        return found

    def _autograde(self, student: str, notebook: str) -> None:
        course = self.course
        course.assignment_id, course.student_id, course.notebook_id = (
            self.assignment,
            student,
            notebook,
        )
        app = Autograde(coursedir=course, parent=self._api, log=self._log)
        app.force = True
        messages = _Messages()
        self._log.handlers = [messages]
        try:
            app.start()
        except (NbGraderException, CannotRecord, OSError) as error:
            said = messages.text() or str(error)
            raise CannotRecord(f"nbgrader did not take it: {said[-600:]}") from None
        finally:
            course.notebook_id = "*"
            self._log.handlers = []


class _Messages(logging.Handler):
    """Keeps what nbgrader logs as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())

    def text(self) -> str:
        return "\n".join(self._lines).strip()


def _config(root: Path) -> Config:
    """The class's own configuration, as stock nbgrader reads it there."""
    from nbgrader.apps import NbGrader

    before = Path.cwd()
    os.chdir(root)
    try:
        app = NbGrader()
        app.config.CourseDirectory.root = str(root)
        app.load_config_file()
    finally:
        os.chdir(before)
    return app.config


def _own_code(root: Path, student: str, check_id: str) -> str:
    """The learner's own functions that a check is about, folded, beside its message."""
    parts = []
    home = root / STAGED / student
    for module, functions in _subjects(check_id).items():
        found = next(home.glob(f"*/savepoint/{module}.py"), None)
        text = _definitions(found, functions) if found else ""
        if text:
            parts.append(
                f"<details>{_SUMMARY}Your savepoint/{module}.py, as it was graded</summary>"
                f'<pre style="white-space:pre-wrap">{html.escape(text)}</pre></details>'
            )
    return "".join(parts)


@cache
def _subjects(check_id: str) -> dict[str, tuple[str, ...]]:
    """{module: names of the functions and classes that the check is about}."""
    check = registry.checks()[check_id]
    incident = registry.incidents()[check.incident]
    if check.kind == "prediction":
        return {}
    regions = [r for name in incident.modules for r in excerpt.Module(name).regions]
    found: dict[str, list[str]] = {}
    for region in excerpt._chosen(check, incident.notebook, regions):
        if region.around:
            names = found.setdefault(region.module, [])
            if region.around[0].name not in names:
                names.append(region.around[0].name)
    return {module: tuple(names) for module, names in found.items()}


def _definitions(path: Path, names: tuple[str, ...]) -> str:
    """The source of the named definitions; of a file that Python cannot read, its beginning."""
    text = path.read_text(encoding="utf-8", errors="replace")
    lines = text.splitlines()
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "\n".join(lines[:MAX_SHOWN])
    shown: list[str] = []
    for node in tree.body:
        if isinstance(node, excerpt.Definition) and node.name in names:
            start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            shown += [*lines[start - 1 : node.end_lineno], ""]
    return "\n".join(shown[:MAX_SHOWN]).rstrip()
