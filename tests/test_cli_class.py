"""A class that takes a notebook a week, and nbgrader's Validate on what a learner is given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nbgrader.api import Gradebook
from nbgrader.validator import Validator
from traitlets.config import Config

from grader import registry
from grader.classroom import new
from grader.paths import NOTEBOOKS, SOLUTIONS
from grader.release import build
from tests.test_cli_learner import course

BIN = Path(sys.executable).parent


def notebooks(folder):
    return sorted(path.name for path in folder.glob("*.ipynb"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--only", "77", "--class", "CLASS"], 2, "course check --list"),
        (["--only", "03", "--class", "."], 1, "is no class"),
        (["--class", "CLASS"], 2, "--only"),
        (["--only", "02", "--class", "CLASS"], 1, "has no 02_seed_gaps"),
    ],
)
def test_what_cannot_be_handed_out_is_said(tmp_path, arguments, code, said):
    (tmp_path / "cs" / "source" / "bit_for_bit").mkdir(parents=True)
    given = [str(tmp_path / "cs") if a == "CLASS" else a for a in arguments]
    run = course("release", *given, cwd=tmp_path)
    assert run.returncode == code and said in run.stderr, run.stderr
    assert not (tmp_path / "cs" / "release").exists()


def test_in_a_class_a_bare_release_asks_which_notebooks(tmp_path):
    (tmp_path / "nbgrader_config.py").touch()
    for arguments in ((), ("--check",)):
        run = course("release", *arguments, cwd=tmp_path)
        assert run.returncode == 2 and "course release --only" in run.stderr, run.stderr


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_class_takes_a_notebook_a_week_and_keeps_its_marks(tmp_path):
    """nbgrader refuses another set of notebooks once there are submissions: it stays the same.
    (The second week's marks, by `course grade`: test_grade_weekly.py.)"""
    folder = tmp_path / "cs"
    new.create(folder)
    released = folder / "release" / "bit_for_bit"
    first = course("release", "--only", "00", cwd=folder)
    assert first.returncode == 0, first.stderr
    assert notebooks(released) == ["00_start_here.ipynb"]
    assert (released / "AGENTS.md").exists() and (released / "README.md").exists()
    assert "SOLUTION" not in (released / "savepoint" / "compat.py").read_text()

    mine = folder / "submitted" / "ada" / "bit_for_bit"
    shutil.copytree(released, mine)
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    grade = [BIN / "nbgrader", "autograde", "bit_for_bit"]
    run = subprocess.run(grade, cwd=folder, env=env, capture_output=True, timeout=480)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
    then = course("release", "--only", "0,01", cwd=folder)
    assert then.returncode == 0, then.stderr
    assert notebooks(released) == ["00_start_here.ipynb", "01_lr_reset.ipynb"]
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}") as book:
        submission = book.find_submission("bit_for_bit", "ada")
        assert {n.name: n.max_score for n in submission.notebooks}["01_lr_reset"] == 20


@pytest.fixture
def folder(tmp_path):
    for name in ("savepoint", *(path.name for path in build.learner_extras())):
        shutil.copytree(NOTEBOOKS / name, tmp_path / name)
    return tmp_path


def validate(path):
    """What nbgrader's Validate says: {the last line of a failing cell: the error shown}. Any cell's
    error counts, not a check's alone."""
    config = Config({"Execute": {"timeout": 240}, "Validator": {"validate_all": True}})
    found = Validator(config=config).validate(str(path))
    assert set(found) <= {"failed"}
    return {e["source"].splitlines()[-1]: e["raw_error"] for e in found.get("failed", [])}


@pytest.mark.slow
@pytest.mark.parametrize("name", [i.notebook for i in registry.incidents().values()])
def test_validate_shows_a_stub_s_messages_and_no_trouble_of_ours(name, folder):
    shutil.copy(NOTEBOOKS / f"{name}.ipynb", folder)
    failed = validate(folder / f"{name}.ipynb")
    incident = next(i for i in registry.incidents().values() if i.notebook == name)
    for check in incident.checks:
        cells = [said for source, said in failed.items() if f'check("{check.id}"' in source]
        if check.kind == "further" or check.hidden:
            assert not cells  # an optional task does not fail a notebook
        else:
            assert len(cells) == 1 and f"{check.id}   " in cells[0]
            assert "Not yet: " in cells[0] and "Traceback" not in cells[0]
    written = [said for source, said in failed.items() if "check(" not in source]
    assert written == ["You did not provide a response."] * bool(incident.written_points)


@pytest.mark.slow
def test_validate_is_content_with_what_passes(folder):
    shutil.copy(NOTEBOOKS / "00_start_here.ipynb", folder)
    shutil.copy(SOLUTIONS / "savepoint" / "bits.py", folder / "savepoint")
    assert validate(folder / "00_start_here.ipynb") == {}
    log = (folder / ".course" / "verdicts.jsonl").read_text()
    assert '"start_here.same_bits"' in log and '"passed"' in log
