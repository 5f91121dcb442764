"""``course start``: the learner's own copy. Nothing that a learner has is ever overwritten."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import typer

from grader import paths, registry
from grader.release import build

STATE = ".course"


class CannotStart(Exception):
    """The copy cannot be made there."""


def start(directory: Path, solved: list[str]) -> None:
    """Copy what is not there yet, and say what the course has newer than the learner's."""
    directory = directory.expanduser().resolve()
    if directory in (paths.ROOT, paths.NOTEBOOKS, paths.SOLUTIONS) or directory.is_relative_to(
        paths.NOTEBOOKS
    ):
        raise CannotStart(f"{directory} is the course itself; choose a directory of your own.")
    if directory.is_file():
        raise CannotStart(f"{directory} is a file; choose a directory.")
    filled = _filled_in(solved)
    handed_out = directory / STATE / "handed_out.json"
    before = json.loads(handed_out.read_text("utf-8")) if handed_out.exists() else {}
    now: dict[str, str] = {}
    new, newer = [], []
    for name, source in sorted(_offered().items()):
        target = directory / name
        source = filled.get(name, source)
        now[name] = _digest(source)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            new.append(name)
        elif before.get(name) != now[name]:
            now[name] = before.get(name, "")  # still what was handed out then
            if _digest(target) != _digest(source):
                newer.append(name)
    handed_out.parent.mkdir(parents=True, exist_ok=True)
    handed_out.write_text(json.dumps(now, indent=1), encoding="utf-8")
    _report(directory, new, newer)


def _offered() -> dict[str, Path]:
    """Every file that a learner is given, by its name in the copy."""
    files = [*paths.NOTEBOOKS.glob("*.ipynb"), *paths.NOTEBOOKS.glob("*.md")]
    for folder in (paths.NOTEBOOKS / "savepoint", *build.learner_extras()):
        files += [
            path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
        ]
    return {path.relative_to(paths.NOTEBOOKS).as_posix(): path for path in files}


def _filled_in(solved: list[str]) -> dict[str, Path]:
    """The modules of the notebooks that a workshop skips, complete."""
    return {
        f"savepoint/{module}.py": paths.SOLUTIONS / "savepoint" / f"{module}.py"
        for what in solved
        for check in registry.select(what)[:1]
        for module in registry.incidents()[check.incident].modules
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _report(directory: Path, new: list[str], newer: list[str]) -> None:
    if new:
        typer.echo(f"{len(new)} files are new in {directory}.")
    else:
        typer.echo(f"{directory} is as you left it.")
    for name in newer:
        typer.echo(f"  newer in the course, yours is kept: {name}")
    if newer:
        typer.echo("  To take the new one, move yours away and run `course start` again.")
