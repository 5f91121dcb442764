"""The ``course`` command, as a shell sees it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from grader import registry
from grader.paths import NOTEBOOKS, ROOT, SOLUTIONS
from tests.conftest import COURSE


def course(*arguments, cwd=ROOT, **env):
    return subprocess.run(
        [*COURSE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **env},
    )


def test_stub_no_points_and_exit_status_1():
    run = course("check", "01", "--savepoint", NOTEBOOKS, "--json")
    verdicts = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 1, run.stderr
    assert {v["status"] for v in verdicts} == {"not implemented"}
    assert sum(v["points"] for v in verdicts) == 0


def test_solution_full_points_and_exit_status_0():
    run = course("check", "01", "--savepoint", "solutions")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "16 of 16 points" in run.stdout


def test_json_has_the_agreed_keys_and_a_seed_repeats():
    runs = [
        course("check", "lr_reset.rng", "--savepoint", "solutions", "--json", "--seed", 5)
        for _ in range(2)
    ]
    first, second = (json.loads(run.stdout) for run in runs)
    assert list(first) == [
        "check",
        "status",
        "points",
        "max_points",
        "message",
        "hint",
        "seed",
        "seconds",
    ]
    assert first["seed"] == 5
    assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_list_names_every_check_with_its_points():
    run = course("check", "--list", "--json", "01")
    listed = {row["check"]: row["points"] for row in map(json.loads, run.stdout.splitlines())}
    assert listed == {c.id: c.points for c in registry.incidents()["lr_reset"].checks}
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["check", "lr_reset.momentun"], "lr_reset.momentum"),
        (["check", "99"], "--list"),
        (["check", "01", "--savepoint", "/nowhere"], "holds no savepoint"),
        (["hint", "lr_reset.nothing"], "no hint"),
        (["check", "--seed", "x"], "seed"),
        (["start", str(NOTEBOOKS)], "course itself"),
    ],
)
def test_usage_errors_say_what_to_do_and_exit_2(arguments, said):
    run = course(*arguments)
    assert run.returncode == 2
    assert said in run.stderr
    assert "Traceback" not in run.stderr


def test_a_bare_package_needs_no_notebook(tmp_path):
    (tmp_path / "savepoint").mkdir()
    shutil.copy(SOLUTIONS / "savepoint" / "checkpoint.py", tmp_path / "savepoint")
    run = course("check", "lr_reset", "--savepoint", tmp_path)
    assert run.returncode == 0, run.stdout
    assert "15 of 15 points" in run.stdout and "prediction" in run.stdout
    inside = course("check", "lr_reset.weights", "--savepoint", tmp_path / "savepoint")
    assert inside.returncode == 0


def test_missing_modules_only_come_from_elsewhere_when_asked(tmp_path):
    (tmp_path / "savepoint").mkdir()
    (tmp_path / "savepoint" / "own.py").write_text("")
    alone = course("check", "lr_reset.rng", "--savepoint", tmp_path, "--json")
    assert json.loads(alone.stdout)["status"] == "not implemented"
    completed = course(
        "check", "lr_reset.rng", "--savepoint", tmp_path, "--complete-from", SOLUTIONS
    )
    assert completed.returncode == 0, completed.stdout


def test_hints_climb_three_rungs_and_stay(tmp_path):
    assert course("start", tmp_path / "mine").returncode == 0
    said = [course("hint", "lr_reset.rng", cwd=tmp_path / "mine").stdout for _ in range(4)]
    assert [f"Hint {n} of 3" in text for n, text in zip((1, 2, 3, 3), said, strict=True)] == [
        True
    ] * 4
    again = course("hint", "lr_reset.rng.rng_numpy", "--rung", 1, cwd=tmp_path / "mine").stdout
    assert "Hint 1 of 3" in again and "cached Gaussian" in again


def test_start_never_overwrites_and_says_what_is_newer(tmp_path):
    mine = tmp_path / "mine"
    assert "files are new" in course("start", mine).stdout
    module = mine / "savepoint" / "checkpoint.py"
    module.write_text("# my work\n")
    assert "as you left it" in course("start", mine).stdout
    handed_out = mine / ".course" / "handed_out.json"
    before = json.loads(handed_out.read_text())
    before["savepoint/checkpoint.py"] = "what an older release handed out"
    handed_out.write_text(json.dumps(before))
    for _ in range(2):  # said every time, until it is settled
        run = course("start", mine)
        assert "newer in the course, yours is kept: savepoint/checkpoint.py" in run.stdout
    assert module.read_text() == "# my work\n"
    (mine / "01_lr_reset.ipynb").unlink()
    assert "1 files are new" in course("start", mine).stdout


def test_start_solved_fills_in_a_notebook_that_is_skipped(tmp_path):
    assert course("start", tmp_path / "w", "--solved", "01").returncode == 0
    filled = (tmp_path / "w" / "savepoint" / "checkpoint.py").read_text()
    assert filled == (SOLUTIONS / "savepoint" / "checkpoint.py").read_text()


def test_doctor_is_content_here_and_names_no_private_path():
    run = course("doctor")
    assert run.returncode == 0, run.stdout
    assert "grader" in run.stdout and str(ROOT) not in run.stdout


def test_output_survives_a_pipe_without_unicode():
    run = course("check", "lr_reset.weights", "--savepoint", "solutions", PYTHONIOENCODING="ascii")
    assert run.returncode == 0, run.stderr
