"""CONTRIBUTING.md's worked example, added to a copy of the course as its text says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess

import pytest

from grader.paths import ROOT
from tests.conftest import COURSE

EXAMPLE = ROOT / "tests" / "fixtures" / "example_incident"


def course(copy, *arguments):
    # PYTHONPATH comes before the installed checkout.
    path = os.pathsep.join([str(copy), str(copy / "notebooks")])
    return subprocess.run(
        [*COURSE, *map(str, arguments)],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.slow
def test_the_worked_example_is_an_incident(tmp_path):
    copy = (tmp_path / "course").resolve()
    ignore = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", ".course")
    for folder in ("grader", "notebooks", "solutions", "docs"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    for folder in ("grader", "solutions"):
        shutil.copytree(EXAMPLE / folder, copy / folder, dirs_exist_ok=True)

    released = course(copy, "release")
    assert released.returncode == 0, released.stdout + released.stderr
    for line in ("built notebooks/08_tokens.ipynb", "built notebooks/savepoint/tokens.py"):
        assert line in released.stdout
    assert "executed solutions/08_tokens.ipynb" in released.stdout
    again = course(copy, "release", "--check")
    assert again.returncode == 0, again.stdout
    assert "self.total = state" not in (copy / "notebooks" / "savepoint" / "tokens.py").read_text()

    def verdict(root):
        run = course(copy, "check", "tokens.total", "--savepoint", root, "--json")
        return run.returncode, json.loads(run.stdout)

    assert verdict(copy / "solutions")[0] == 0
    code, stub = verdict(copy / "notebooks")
    assert code == 1 and stub["status"] == "not implemented"
    for entry, status, hint in (
        ("wheat_list_of_counts", "passed", None),
        ("chaff_kept_in_the_class", "wrong", "tokens.total.forgotten"),
    ):
        shutil.copy(
            EXAMPLE / "bank" / f"{entry}.py", copy / "notebooks" / "savepoint" / "tokens.py"
        )
        found = verdict(copy / "notebooks")[1]
        assert (found["status"], found["hint"]) == (status, hint), found
