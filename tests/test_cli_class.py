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
from tests.test_cli_learner import course

BIN = Path(sys.executable).parent


def notebooks(folder):
    return sorted(path.name for path in folder.glob("*.ipynb"))


def test_a_class_begins_with_some_notebooks_and_gets_others_later(tmp_path):
    new.create(tmp_path / "cs", "00, lr_reset")
    source = tmp_path / "cs" / "source" / "bit_for_bit"
    assert notebooks(source) == ["00_start_here.ipynb", "01_lr_reset.ipynb"]
    assert (source / "AGENTS.md").exists() and (source / "savepoint" / "compat.py").exists()
    (source / "01_lr_reset.ipynb").write_text("the instructor's own edit")

    run = course("release", "--only", "1,2", cwd=tmp_path / "cs")
    assert run.returncode == 0, run.stderr
    assert "01_lr_reset is there already" in run.stdout and "Added 02_seed_gaps" in run.stdout
    assert notebooks(source)[2:] == ["02_seed_gaps.ipynb"]
    assert (source / "01_lr_reset.ipynb").read_text() == "the instructor's own edit"

    for arguments, code, said in (
        (["--only", "77"], 2, "course check --list"),
        (["--only", "03", "--class", str(tmp_path)], 1, "is no class"),
        (["--class", str(tmp_path / "cs")], 2, "--only"),
    ):
        run = course("release", *arguments, cwd=tmp_path / "cs")
        assert run.returncode == code and said in run.stderr
    assert notebooks(source)[2:] == ["02_seed_gaps.ipynb"]


@pytest.mark.slow
def test_a_later_notebook_leaves_the_marks_of_an_earlier_one(tmp_path):
    new.create(tmp_path / "cs", "00")
    generate = [BIN / "nbgrader", "generate_assignment", "bit_for_bit", "--force"]
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    first = subprocess.run(generate, cwd=tmp_path / "cs", env=env, capture_output=True, timeout=200)
    assert first.returncode == 0, first.stderr
    url = f"sqlite:///{tmp_path / 'cs' / 'gradebook.db'}"
    with Gradebook(url) as book:
        book.add_student("ada")
        book.add_submission("bit_for_bit", "ada")
        grade = book.find_grade("start_here-same_bits", "00_start_here", "bit_for_bit", "ada")
        grade.extra_credit = 2.5
        book.db.commit()
    new.add(tmp_path / "cs", "01")
    then = subprocess.run(generate, cwd=tmp_path / "cs", env=env, capture_output=True, timeout=200)
    assert then.returncode == 0, then.stderr
    assert "01_lr_reset.ipynb" in notebooks(tmp_path / "cs" / "release" / "bit_for_bit")
    with Gradebook(url) as book:
        grade = book.find_grade("start_here-same_bits", "00_start_here", "bit_for_bit", "ada")
        assert grade.extra_credit == 2.5
        assert book.find_notebook("01_lr_reset", "bit_for_bit").max_score == 20


@pytest.fixture
def folder(tmp_path):
    for name in ("savepoint", "legacy"):
        shutil.copytree(NOTEBOOKS / name, tmp_path / name)
    return tmp_path


def validate(path):
    """What nbgrader's Validate says: {the last line of a failing cell: the error shown}."""
    found = Validator(config=Config({"Execute": {"timeout": 240}})).validate(str(path))
    assert set(found) <= {"failed"}
    return {e["source"].splitlines()[-1]: e["raw_error"] for e in found.get("failed", [])}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["00_start_here", "01_lr_reset"])
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
    others = {s for s in failed if "check(" not in s}
    assert others == (
        {"*Write here: two or three sentences.*"} if incident.written_points else set()
    )


@pytest.mark.slow
def test_validate_is_content_with_what_passes(folder):
    shutil.copy(NOTEBOOKS / "00_start_here.ipynb", folder)
    shutil.copy(SOLUTIONS / "savepoint" / "bits.py", folder / "savepoint")
    assert validate(folder / "00_start_here.ipynb") == {}
    log = (folder / ".course" / "verdicts.jsonl").read_text()
    assert '"start_here.same_bits"' in log and '"passed"' in log
