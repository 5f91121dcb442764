"""A notebook a week, graded by `course grade`: what is out is graded, what was marked stays."""

from __future__ import annotations

import shutil

import pytest
from nbgrader.api import Gradebook

from grader.classroom import new
from grader.paths import SOLUTIONS
from tests.conftest import need_jail
from tests.test_classroom import NOTEBOOK, cell, nbgrader
from tests.test_cli_class import course
from tests.test_grade import grade, marks

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
CAUSE = "lr_reset-cause"


def write_cause(folder, text: str) -> None:
    import nbformat

    path = folder / f"{NOTEBOOK}.ipynb"
    nb = nbformat.read(path, as_version=4)
    cell(nb, CAUSE).source = text
    nbformat.write(nb, path)


def mark_by_hand(root, score: float) -> None:
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as book:
        found = book.find_grade(CAUSE, NOTEBOOK, "bit_for_bit", "ada")
        found.manual_score, found.needs_manual_grade = score, False
        book.db.commit()


def cause(root) -> tuple[float | None, bool]:
    with Gradebook(f"sqlite:///{root / 'gradebook.db'}") as book:
        found = book.find_grade(CAUSE, NOTEBOOK, "bit_for_bit", "ada")
        return found.manual_score, found.needs_manual_grade


def test_what_is_out_is_graded_and_a_mark_by_hand_stands(tmp_path):
    need_jail()
    root = tmp_path / "cs"
    new.create(root)
    assert course("release", "--only", "00", cwd=root).returncode == 0
    released, mine = root / "release" / "bit_for_bit", root / "submitted" / "ada" / "bit_for_bit"
    shutil.copytree(released, mine)
    assert "1 student: 1 notebook graded" in grade(root).stdout
    refused = grade(root, "01", code=3)
    assert "not handed out yet" in refused.stderr

    assert course("release", "--only", "00,01", cwd=root).returncode == 0
    shutil.copy(released / f"{NOTEBOOK}.ipynb", mine)
    shutil.copy(SOLUTIONS / "savepoint" / "checkpoint.py", mine / "savepoint")
    write_cause(mine, "The optimizer's state was not in the file.")
    grade(root, "01")
    assert marks(root)["ada", "lr_reset-momentum"] == (1, False)
    assert cause(root) == (None, True)

    mark_by_hand(root, 3)
    grade(root, "01", "--again")
    assert cause(root) == (3, False)  # nothing new to read
    write_cause(mine, "The optimizer's state, and the scheduler's, were not in the file.")
    grade(root, "01")
    assert cause(root) == (3, True)  # another answer: somebody should look again

    report = course("report", cwd=root)
    assert report.returncode == 0 and "(1 still waits for a mark by hand)" in report.stdout
    assert not (root / "report" / "00_start_here.csv").exists()
    nbgrader(root, "generate_feedback", "bit_for_bit", "--student", "ada")


def test_an_archive_may_lie_beside(tmp_path):
    from grader.classroom import intake

    home = tmp_path / "cy"
    (tmp_path / "made" / "savepoint").mkdir(parents=True)
    (tmp_path / "made" / "savepoint" / "checkpoint.py").write_text("x = 1\n")
    home.mkdir()
    shutil.make_archive(str(home / "homework"), "zip", tmp_path / "made")
    found = intake.read(tmp_path, "cy", "bit_for_bit", {NOTEBOOK: {}})
    assert found.why is None and list(found.package) == ["savepoint/checkpoint.py"]
