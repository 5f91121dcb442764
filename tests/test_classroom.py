"""A class with nbgrader's own commands: five submissions, the right marks, nothing stops the batch.

Covers FACTS E1 to E6, E8 and F11 on real nbgrader, in a class made by `course classroom new`.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook

from grader import registry
from grader.paths import NOTEBOOKS, ROOT, SOLUTIONS
from tests import banking
from tests.conftest import COURSE, need_jail

NOTEBOOK = "01_lr_reset"
BIN = Path(sys.executable).parent
SECONDS = "BIT_FOR_BIT_SECONDS"
NOISY_AND_RIGHT = """
import logging, sys, warnings
_quiet = save_checkpoint
def save_checkpoint(path, **parts):
    print("saving", path)
    warnings.warn("this disk is slow")
    logging.getLogger().error("noise")
    sys.stderr.write("more noise")
    _quiet(path, **parts)
"""
# What a submission tries that wants another mark (E6), before it takes its process down.
CRASHING = """
import os, sqlite3
from pathlib import Path
for start in (Path(__file__).resolve(), Path.cwd()):
    for folder in start.parents:
        if (folder / "gradebook.db").exists():
            with sqlite3.connect(folder / "gradebook.db") as db:
                db.execute("update grade set auto_score = 3, manual_score = 3")
def rng_state():
    try: get_ipython().displayhook(3.0)
    except NameError: pass
    os._exit(0)
def save_checkpoint(path, **parts): os._exit(0)
def load_checkpoint(path, **parts): os._exit(0)
"""
ENDLESS = """
def rng_state():
    while True: pass
def save_checkpoint(path, **parts):
    while True: pass
"""


def nbgrader(course, *arguments):
    run = subprocess.run(
        [BIN / "nbgrader", *arguments],
        cwd=course,
        capture_output=True,
        text=True,
        timeout=900,
        # nbgrader calls alembic by its name (E8).
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | {SECONDS: "2"},
    )
    told = [line for line in run.stderr.splitlines() if "| INFO]" not in line]
    assert run.returncode == 0, "\n".join(told)[-8000:]
    return run


def submit(course, student, *, module=None, prediction='"?"', edit=None, trimmed=False):
    """Hand in for ``student``; ``trimmed``: without the cells that only show something, which a
    learner may delete, and on which stock autograding would spend half a minute."""
    folder = course / "submitted" / student / "bit_for_bit"
    shutil.copytree(course / "release" / "bit_for_bit", folder)
    if module is not None:
        (folder / "savepoint" / "checkpoint.py").write_text(module)
    nb = nbformat.read(folder / f"{NOTEBOOK}.ipynb", as_version=4)
    answer = cell(nb, "lr_reset-prediction-answer")
    answer.source = f"prediction = {prediction}"
    if edit:
        edit(nb)
    if trimmed:
        first = next(c for c in nb.cells if c.cell_type == "code")
        nb.cells = [
            c for c in nb.cells if c is first or c.cell_type != "code" or "nbgrader" in c.metadata
        ]
    nbformat.write(nb, folder / f"{NOTEBOOK}.ipynb")


def cell(nb, grade_id):
    return next(c for c in nb.cells if c.metadata.get("nbgrader", {}).get("grade_id") == grade_id)


def copy_a_cell_with_empty_metadata(nb):
    copied = nbformat.v4.new_code_cell("1 + 1")
    copied.metadata["nbgrader"] = {}
    nb.cells.insert(3, copied)


def delete_a_check_and_edit_another(nb):
    nb.cells.remove(cell(nb, "lr_reset-momentum"))
    cell(nb, "lr_reset-rng").source = "3.0"


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    course = tmp_path_factory.mktemp("class") / "cs101"
    subprocess.run([*COURSE, "classroom", "new", course], check=True, timeout=120)
    source = course / "source" / "bit_for_bit"
    for path in source.glob("*.ipynb"):
        if path.stem != NOTEBOOK:
            path.unlink()  # one notebook: stock autograding runs every cell of every submission
    nbgrader(course, "generate_assignment", "bit_for_bit")
    solution = (SOLUTIONS / "savepoint" / "checkpoint.py").read_text()
    wrong = banking.BANK / "checkpoint" / "chaff_optimizer_not_restored.py"
    submit(course, "right", module=solution + NOISY_AND_RIGHT, prediction='"a"')
    submit(
        course,
        "wrong",
        module=wrong.read_text(),
        prediction='"b"',
        edit=copy_a_cell_with_empty_metadata,
        trimmed=True,
    )
    submit(course, "untouched", edit=delete_a_check_and_edit_another, trimmed=True)
    submit(course, "crashing", module=solution + CRASHING, prediction='"d"', trimmed=True)
    submit(course, "endless", module=solution + ENDLESS, prediction='"d"', trimmed=True)
    shutil.copytree(course, course.parent / "ungraded")
    nbgrader(course, "autograde", "bit_for_bit")
    nbgrader(course, "generate_feedback", "bit_for_bit")
    nbgrader(course, "export")
    return course


def marks(course, student):
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        submission = book.find_submission_notebook(NOTEBOOK, "bit_for_bit", student)
        return {g.name: g for g in submission.grades}, {
            g.name: (g.auto_score, g.max_score, g.needs_manual_grade) for g in submission.grades
        }


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_marks_are_right(graded):
    checks = registry.incidents()["lr_reset"].checks
    expected = {
        "right": {check.grade_id: check.points for check in checks},
        "wrong": {"lr_reset-prediction": 1, "lr_reset-rng": 3},
        "untouched": {},
        "crashing": {"lr_reset-prediction": 1},
        "endless": {"lr_reset-prediction": 1},
    }
    for student, scores in expected.items():
        _, recorded = marks(graded, student)
        for check in checks:
            auto, highest, _ = recorded[check.grade_id]
            assert highest == check.points
            if student == "wrong" and check.grade_id not in scores:
                continue
            assert auto == scores.get(check.grade_id, 0), (student, check.id, auto)
    _, wrong = marks(graded, "wrong")
    assert wrong["lr_reset-momentum"][0] == wrong["lr_reset-same_bits"][0] == 0
    # 5.: what was deleted came back and was graded; only the written answer waits for a person
    # (and only where there is something to read).
    _, untouched = marks(graded, "untouched")
    assert untouched["lr_reset-momentum"][0] == 0
    assert all(not manual for name, (_, _, manual) in untouched.items() if name != "lr_reset-cause")
    _, right = marks(graded, "right")
    assert right["lr_reset-cause"][1] == 4


@pytest.mark.slow
def test_course_grade_gives_the_same_marks_cell_by_cell(graded):
    need_jail()
    course, honest = graded.parent / "ungraded", ("right", "wrong", "untouched")
    asked = [a for student in honest for a in ("--student", student)]
    subprocess.run([*COURSE, "grade", *asked], cwd=course, check=True, timeout=280)
    for student in honest:
        assert marks(course, student)[1] == marks(graded, student)[1]


@pytest.mark.slow
def test_the_learner_s_package_was_graded_and_not_the_instructor_s(graded):
    """E2: autograde must not put the solution's modules in the submission's place."""
    kept = graded / "autograded" / "untouched" / "bit_for_bit" / "savepoint" / "checkpoint.py"
    assert kept.read_bytes() == (NOTEBOOKS / "savepoint" / "checkpoint.py").read_bytes()


@pytest.mark.slow
def test_nothing_was_released_that_gives_a_solution_away(graded):
    """E1, in the class's own generate_assignment."""
    for path in (graded / "release").rglob("*"):
        if path.suffix in (".py", ".ipynb"):
            assert "SOLUTION" not in path.read_text() and "HIDDEN TESTS" not in path.read_text()


@pytest.mark.slow
def test_feedback_holds_the_message_and_no_hidden_test_s_source(graded):
    """F11: the message stands in the feedback."""
    page = (graded / "feedback" / "wrong" / "bit_for_bit" / f"{NOTEBOOK}.html").read_text()
    assert "Before the save the optimizer" in page and "lr_reset.momentum" in page
    assert "Traceback (most recent" not in page


@pytest.mark.slow
def test_export_has_a_row_for_everybody(graded):
    with (graded / "grades.csv").open() as file:
        rows = {row["student_id"]: float(row["raw_score"]) for row in csv.DictReader(file)}
    assert rows["right"] == 16 and rows["untouched"] == 0
    assert set(rows) == {"right", "wrong", "untouched", "crashing", "endless"}
    assert 1 < rows["wrong"] < 16 and rows["crashing"] == rows["endless"] == 1


def test_a_class_is_never_made_inside_the_repository_or_over_something(tmp_path):
    from grader.classroom import new

    with pytest.raises(new.CannotCreate, match="Student data never lives there"):
        new.create(ROOT / "cs101")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(new.CannotCreate, match="not empty"):
        new.create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_the_gradebook_waits_for_another_writer():
    """E8: sqlite with a time-out, and alembic found by its name."""
    from traitlets.config import Config

    from grader.classroom.config import configure

    config = Config()
    configure(config)
    assert config.CourseDirectory.db_url.endswith("?timeout=60")
    assert config.Execute.shutdown_kernel == "immediate"
    assert shutil.which("alembic", path=str(BIN))
