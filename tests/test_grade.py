"""``course grade`` on a class of real submissions: marks, feedback, what cannot be graded, kills.

One class of notebook 01 is made and graded once; the tests look at it, and grade copies of it.
(That the marks are stock nbgrader's: test_classroom.py.)
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from nbgrader.api import Gradebook

from grader import jail_tier
from grader.classroom.store import Store
from grader.paths import SOLUTIONS
from tests import banking
from tests.conftest import COURSE, need_jail
from tests.test_classroom import NOTEBOOK, delete_a_check_and_edit_another, nbgrader, submit

ENDLESS = "\ndef save_checkpoint(path, **parts):\n    while True: pass\n"


def grade(course, *options, code=0):
    run = subprocess.run(
        [*COURSE, "grade", *options],
        cwd=course,
        capture_output=True,
        text=True,
        timeout=280,
        env=os.environ | {"BIT_FOR_BIT_SECONDS": "4"},
    )
    assert run.returncode == code, run.stdout[-2000:] + run.stderr[-2000:]
    return run


def marks(course) -> dict[tuple[str, str], tuple[float | None, bool]]:
    """{(student, cell): (auto score, waits for a person)} of everybody in the gradebook."""
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        return {
            (s.student_id, g.name): (g.auto_score, g.needs_manual_grade)
            for s in book.assignment_submissions("bit_for_bit")
            for notebook in s.notebooks
            for g in notebook.grades
        }


def new_class(course):
    subprocess.run([*COURSE, "classroom", "new", course], check=True, timeout=120)
    for path in (course / "source" / "bit_for_bit").glob("*.ipynb"):
        if path.stem != NOTEBOOK:
            path.unlink()
    nbgrader(course, "generate_assignment", "bit_for_bit")


@pytest.fixture(scope="module")
def ungraded(tmp_path_factory):
    need_jail()
    course = tmp_path_factory.mktemp("class") / "cs101"
    new_class(course)
    solution = (SOLUTIONS / "savepoint" / "checkpoint.py").read_text()
    wrong = (banking.BANK / "checkpoint" / "chaff_optimizer_not_restored.py").read_text()
    submit(course, "right", module=solution, prediction='"a"')
    submit(course, "wrong", module=wrong, prediction='"b"')
    submit(course, "untouched", edit=delete_a_check_and_edit_another)
    submit(course, "endless", module=solution + ENDLESS, prediction='"d"')
    submit(course, "no_notebook", module=solution)
    (course / "submitted" / "no_notebook" / "bit_for_bit" / f"{NOTEBOOK}.ipynb").unlink()
    submit(course, "no_package", prediction='"c"')
    shutil.rmtree(course / "submitted" / "no_package" / "bit_for_bit" / "savepoint")
    (course / "submitted" / "nothing" / "bit_for_bit").mkdir(parents=True)
    submit(course, "zipped", module=wrong, prediction='"b"')
    home = course / "submitted" / "zipped"
    shutil.make_archive(str(home / "bit_for_bit"), "zip", home / "bit_for_bit")
    shutil.rmtree(home / "bit_for_bit")
    return course


@pytest.fixture(scope="module")
def graded(ungraded, tmp_path_factory):
    course = tmp_path_factory.mktemp("graded") / "cs101"
    shutil.copytree(ungraded, course)
    run = grade(course, code=1)  # 1: some could not be graded
    return course, run


@pytest.mark.slow
def test_marks_and_what_has_none(graded):
    course, run = graded
    found = marks(course)

    def total(student):
        return sum(score or 0 for (who, _), (score, _) in found.items() if who == student)

    assert total("right") == 16 and 1 < total("wrong") < 16 and total("untouched") == 0
    assert total("zipped") == total("wrong")
    assert found["right", "lr_reset-cause"] == (0, False)  # unwritten: nbgrader's own rule
    assert 1 <= total("endless") < 16
    # What could not be graded waits for a person, and is no 0.
    assert found["no_notebook", "lr_reset-prediction"] == (None, True)
    assert total("no_notebook") == 15
    assert found["no_package", "lr_reset-prediction"] == (1, False)
    assert found["no_package", "lr_reset-momentum"] == (None, True)
    assert not any(student == "nothing" for student, _ in found)
    for line in ("nothing", "no_package", "no_notebook"):
        assert line in run.stdout
    assert "neither savepoint/ nor a notebook" in run.stdout
    assert not (course / ".staged").exists() or not list((course / ".staged").iterdir())


@pytest.mark.slow
def test_the_store_says_what_the_gradebook_says(graded):
    course, _ = graded
    store, found = Store(course), marks(course)
    for record in store.records():
        assert record.seed == store.seed()
        for check, verdict in record.decided().items():
            assert found[record.student, check.replace(".", "-")] == (verdict.points, False)
        for check in record.open if not record.ungradable else []:
            assert found[record.student, check.replace(".", "-")] == (None, True)


@pytest.mark.slow
def test_a_second_run_does_nothing_and_an_edit_grades_one(graded, tmp_path):
    course = tmp_path / "cs101"
    shutil.copytree(graded[0], course)
    lines = grade(course, "--student", "right", "--student", "wrong", "--json").stdout
    assert lines == ""
    module = course / "submitted" / "wrong" / "bit_for_bit" / "savepoint" / "checkpoint.py"
    module.write_text((SOLUTIONS / "savepoint" / "checkpoint.py").read_text())
    records = [
        json.loads(line)
        for line in grade(course, "--student", "right", "--student", "wrong", "--json")
        .stdout.strip()
        .splitlines()
    ]
    assert [r["student"] for r in records] == ["wrong"]
    assert sum(v["points"] for v in records[0]["verdicts"]) == 16
    assert marks(course)["wrong", "lr_reset-momentum"][0] > 0


@pytest.mark.slow
def test_feedback_teaches_and_shows_the_learner_s_own_code_only(graded):
    course, _ = graded
    nbgrader(course, "generate_feedback", "bit_for_bit", "--student", "wrong")
    page = (course / "feedback" / "wrong" / "bit_for_bit" / f"{NOTEBOOK}.html").read_text()
    assert ("Before the save the optimizer" in page and "course hint" in page) or "hint(" in page
    assert "Your savepoint/checkpoint.py, as it was graded" in page
    assert "BEGIN SOLUTION" not in page and "HIDDEN TESTS" not in page
    assert "Traceback (most recent" not in page


@pytest.mark.slow
def test_killed_at_random_points_the_gradebook_is_the_same(ungraded, graded, tmp_path):
    course = tmp_path / "cs101"
    shutil.copytree(ungraded, course)
    # Whose every probe runs into its limit: minutes, and nothing new.
    shutil.rmtree(course / "submitted" / "endless")
    Store(course).set_seed(Store(graded[0]).seed())
    # Where a jail's user can walk to, unlike tmp_path.
    scratch = Path(tempfile.mkdtemp(prefix="killed-"))
    scratch.chmod(0o755)
    dice = random.Random(8)
    for _ in range(5):
        running = subprocess.Popen(
            [*COURSE, "grade"],
            cwd=course,
            env=os.environ | {"BIT_FOR_BIT_SECONDS": "4", "TMPDIR": str(scratch)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(dice.uniform(2, 10))
        running.send_signal(signal.SIGKILL)
        running.wait(30)
        until = time.monotonic() + 10
        while (left := list(scratch.glob("graded-*"))) and time.monotonic() < until:
            time.sleep(0.1)  # the workers notice within half a second
        assert not left, "a submission's code was left behind"
    grade(course, code=1)
    assert marks(course) == {k: v for k, v in marks(graded[0]).items() if k[0] != "endless"}
    shutil.rmtree(scratch)


@pytest.mark.slow
def test_a_dask_cluster_of_separate_processes(ungraded, graded, tmp_path):
    distributed = pytest.importorskip("distributed")
    course = tmp_path / "cs101"
    shutil.copytree(ungraded, course)
    Store(course).set_seed(Store(graded[0]).seed())
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
    ) as cluster:
        # Not "endless", whose every probe runs into its limit: minutes, and nothing new.
        some = [a for who in ("right", "wrong", "zipped", "no_package") for a in ("--student", who)]
        grade(course, "--scheduler", cluster.scheduler_address, *some, code=1)
    assert marks(course) == {k: v for k, v in marks(graded[0]).items() if k[0] in some}


def test_without_a_whole_jail_it_refuses(tmp_path, monkeypatch):
    from grader.classroom.grading import CannotGrade
    from grader.cli import grading

    missing = ("kernel.apparmor_restrict_unprivileged_userns is 1",)
    monkeypatch.setattr(jail_tier, "find", lambda: jail_tier.Tier("none", missing))
    options = {"again": False, "as_json": False}
    with pytest.raises(CannotGrade, match=r"(?s)apparmor_restrict.*--trust-submissions"):
        grading.run([], [], 1, None, trust=False, **options)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CannotGrade, match="is not a class"):
        grading.run([], [], 1, None, trust=True, **options)


def test_apparmor_is_diagnosed_by_name(monkeypatch):
    setting = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
    monkeypatch.setattr(jail_tier, "_setting", lambda path: "1" if path == setting else "")
    name, missing = jail_tier._diagnosed("bwrap: setting up uid map: Permission denied")
    assert name == "none" and "kernel.apparmor_restrict_unprivileged_userns" in missing[0]


@pytest.mark.slow
def test_no_process_and_no_file_is_left_outside(graded):
    """Of the run that graded the class: its jails were named after its workers, now gone."""
    for left in Path(tempfile.gettempdir()).glob("jail-*-*"):
        maker = left.name.split("-")[1]
        assert maker.isdecimal() and Path("/proc", maker).exists(), left
