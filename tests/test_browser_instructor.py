"""An instructor in nbgrader's formgrader, in a real browser, on a class that `course grade` graded.

From the first look to the written mark, the feedback, the report and the export; after each step
nbgrader's gradebook is asked what it holds.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nbgrader.api import Gradebook

from grader.classroom.config import ASSIGNMENT
from grader.paths import SOLUTIONS
from tests import banking, browsing
from tests.browsing import shoot
from tests.conftest import need, need_jail
from tests.test_classroom import NOTEBOOK, cell, nbgrader, submit
from tests.test_grade import grade, marks, new_class
from tests.test_report import report

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(600)]
CAUSE = "lr_reset-cause"
ANSWER = "The new optimizer began at the first rate, and **without its moments**."
STUDENTS = ("ada", "bob", "cy")
WIDTHS = {"wide": 1400, "narrow": 420}
COMMENT = "Rate and moments: yes. What of the generators?"
# In the solution's modules and notebooks, or in a hidden check: never in what a learner is shown.
SECRET = ("BEGIN SOLUTION", "END SOLUTION", "HIDDEN TESTS", "Rubric")


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graded class: ada is right and wrote no root cause, bob and cy are wrong and wrote one."""
    need("chromium")  # before minutes of grading
    need_jail()
    course = tmp_path_factory.mktemp("class") / "cs101"
    new_class(course)
    solution = (SOLUTIONS / "savepoint" / "checkpoint.py").read_text()
    wrong = (banking.BANK / "checkpoint" / "chaff_optimizer_not_restored.py").read_text()
    submit(course, "ada", module=solution, prediction='"a"')
    submit(course, "bob", module=wrong, prediction='"b"', edit=_write_the_cause)
    submit(course, "cy", prediction='"d"', edit=_write_the_cause)
    grade(course)
    nbgrader(course, "generate_feedback", ASSIGNMENT)
    return course


def _write_the_cause(nb: Any) -> None:
    cell(nb, CAUSE).source = ANSWER


@pytest.fixture
def url(course: Path, tmp_path: Path) -> Iterator[str]:
    """JupyterLab, started in the class's directory."""
    with browsing.lab(course, tmp_path) as url:
        yield url


def cause_of(course: Path, student: str) -> tuple[float | None, bool, str | None]:
    """The gradebook's (mark by hand, waits for a person, comment) for the written root cause."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        where = (CAUSE, NOTEBOOK, ASSIGNMENT, student)
        found = book.find_grade(*where)
        return found.manual_score, found.needs_manual_grade, book.find_comment(*where).comment


def total(course: Path, student: str) -> float:
    """A student's points in the gradebook, those by hand included."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        return book.find_submission(ASSIGNMENT, student).score


def rows(page: Any) -> list[str]:
    """The lines of formgrader's table, once it has loaded; a tab between two cells."""
    page.locator("#main-table a").first.wait_for()
    return page.locator("#main-table").inner_text().strip().splitlines()


def open_submission(page: Any, url: str, student: str) -> None:
    """By the path that a person clicks: assignment, notebook, names, student."""
    page.goto(f"{url}/formgrader/gradebook")
    page.get_by_role("link", name=ASSIGNMENT, exact=True).click()
    page.get_by_role("link", name=NOTEBOOK, exact=True).click()
    rows(page)
    page.locator("#toggle_names").click()
    page.get_by_role("link", name=student, exact=True).click()
    page.locator(f"#{CAUSE}").wait_for()
    # Not formgrader.loaded: without a network its set-up ends early, for want of MathJax.
    page.wait_for_function("formgrader.grades?.loaded && formgrader.comments?.loaded")


def fill(page: Any, field: str, value: str) -> None:
    """Fill in one of formgrader's fields, and wait until the server has taken it."""
    with page.expect_response(lambda r: r.request.method == "PUT") as saved:
        page.locator(field).fill(value)
        page.locator(field).blur()
    assert saved.value.ok


def overflow(page: Any) -> int:
    """By how many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def look_at_the_gradebook(course: Path, url: str, page: Any) -> None:
    page.goto(f"{url}/formgrader/gradebook")
    mean = sum(total(course, student) for student in STUDENTS) / len(STUDENTS)
    assert rows(page) == [f"{ASSIGNMENT}\tNone\t{len(STUDENTS)}\t{mean:.4g} / 20"]
    shoot(page, "i2_gradebook")


def read_a_submission(course: Path, url: str, page: Any) -> None:
    open_submission(page, url, "bob")
    said = page.locator("body").inner_text()
    assert "✗ lr_reset.momentum   0/1" in said and "✓ lr_reset.rng   3/3" in said
    assert 'prediction = "b"' in said and "and without its moments." in said
    assert "Before the save the optimizer" in said and "hint(" in said
    own = page.locator(".output_subarea", has_text="✗ lr_reset.momentum").locator("details")
    assert not own.locator("pre").is_visible()
    own.locator("summary").click()
    assert "def load_checkpoint(path" in own.locator("pre").inner_text()
    shoot(page, "i3_submission")
    assert not [secret for secret in SECRET if secret in page.content()]
    # What is not marked by hand stands beside its check; only the root cause waits.
    score = page.locator("#lr_reset-rng")
    assert score.get_attribute("placeholder") == "3" and score.input_value() == ""
    assert page.locator("input.needs_manual_grade").count() == 1
    waiting = {key for key, (_, waits) in marks(course).items() if waits}
    assert waiting == {("bob", CAUSE), ("cy", CAUSE)}  # ada wrote nothing, which is a 0


def mark_the_root_cause(course: Path, url: str, page: Any) -> None:
    before = total(course, "bob")
    fill(page, f"#{CAUSE}", "3")
    fill(page, f"#{CAUSE}-comment", COMMENT)
    page.locator(f"#{CAUSE}").scroll_into_view_if_needed()
    shoot(page, "i4_marked")
    assert cause_of(course, "bob") == (3, False, COMMENT)
    assert cause_of(course, "cy") == (None, True, None)
    assert total(course, "bob") == before + 3
    open_submission(page, url, "bob")  # and it is still there
    assert page.locator(f"#{CAUSE}").input_value() == "3"
    assert page.locator(f"#{CAUSE}-comment").input_value() == COMMENT
    page.goto(f"{url}/formgrader/gradebook/{ASSIGNMENT}/{NOTEBOOK}")
    assert sum(f"{before + 3:g} / 20" in row and "3 / 4" in row for row in rows(page)) == 1


def generate_feedback(course: Path, url: str, page: Any) -> None:
    made = course / "feedback" / "bob" / ASSIGNMENT / f"{NOTEBOOK}.html"
    # Made before the mark, as an instructor does who sends the checks' words first.
    assert made.exists() and COMMENT not in made.read_text()
    page.goto(f"{url}/formgrader/manage_submissions/{ASSIGNMENT}")
    rows(page)
    page.locator("#main-table tr", has_text="bob").locator(".generate-feedback a").click()
    page.locator("#success-modal").get_by_text("Successfully generated feedback").wait_for()
    shoot(page, "i5_feedback_made")

    written = made.read_text()
    assert not [secret for secret in SECRET if secret in written]
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(made.as_uri())
        said = page.locator("body").inner_text()
        assert COMMENT in said and "✗ lr_reset.momentum   0/1" in said
        assert f"Score: {total(course, 'bob'):.1f} / 20.0" in said, said[:400]
        shoot(page, f"i6_feedback_{name}")
        page.get_by_text(COMMENT).first.scroll_into_view_if_needed()
        shoot(page, f"i6_feedback_{name}_comment")
        assert overflow(page) <= 0, name


def read_the_report(course: Path, page: Any) -> None:
    run = report(course)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 still waits for a mark by hand" in run.stdout
    with (course / "report" / f"{NOTEBOOK}.csv").open() as file:
        listed = {row["student_id"]: float(row["points"]) for row in csv.DictReader(file)}
    assert listed == {student: total(course, student) for student in STUDENTS}
    for name, width in WIDTHS.items():
        page.set_viewport_size({"width": width, "height": 900})
        page.goto((course / "report" / "index.html").as_uri())
        said = page.locator("body").inner_text()
        for words in ("3 students, 1 notebook.", "lr_reset.momentum", "1 of 3", *STUDENTS):
            assert words in said, words
        assert "Nothing: every check of every submission was decided." in said
        shoot(page, f"i7_report_{name}")
        assert overflow(page) <= 0, name


def export(course: Path) -> None:
    nbgrader(course, "export")
    with (course / "grades.csv").open() as file:
        exported = {row["student_id"]: float(row["score"]) for row in csv.DictReader(file)}
    assert exported == {student: total(course, student) for student in STUDENTS}
    assert exported["ada"] == 16 and exported["bob"] > 3


def grade_again(course: Path) -> None:
    """Neither a run with nothing to do nor one that grades anew loses what a person gave."""
    before = total(course, "bob")
    assert "0 notebooks graded" in grade(course).stdout
    assert cause_of(course, "bob") == (3, False, COMMENT)
    grade(course, "--student", "bob", "--again")
    score, _, comment = cause_of(course, "bob")
    assert (score, comment) == (3, COMMENT)
    assert total(course, "bob") == before


def test_an_instructor_s_whole_path(course: Path, url: str, page: Any) -> None:
    # Formgrader asks a CDN for MathJax: the test is to be the same with a network and without.
    page.route(re.compile(r"^https?://(?!127\.0\.0\.1)"), lambda route: route.abort())
    # The entry that grader/README.md names; its tab shows what /formgrader shows.
    page.goto(f"{url}/lab")
    browsing.menu(page, "Nbgrader", "Formgrader")
    page.frame_locator("iframe").locator("#main-table a").first.wait_for()
    shoot(page, "i1_lab")

    look_at_the_gradebook(course, url, page)
    read_a_submission(course, url, page)
    mark_the_root_cause(course, url, page)
    generate_feedback(course, url, page)
    read_the_report(course, page)
    export(course)
    grade_again(course)
