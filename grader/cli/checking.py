"""``course check``: run checks on a package and print what they decided."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from grader import answers, paths, registry
from grader.client import start_runner
from grader.judge import judge, new_seed
from grader.registry import Check
from grader.verdict import Status, Verdict


def show_list(what: str | None, *, as_json: bool) -> None:
    """Print the checks with their points."""
    for check in registry.select(what):
        if as_json:
            row = {
                "check": check.id,
                "points": check.points,
                "kind": check.kind,
                "title": check.title,
            }
            typer.echo(json.dumps(row))
        else:
            points = f"{check.points:g} points" if check.points else check.kind
            typer.echo(f"{check.id:32} {points:10} {check.title}")


def run(
    what: str | None,
    savepoint: Path | None,
    complete_from: Path | None,
    seed: int | None,
    *,
    as_json: bool,
) -> int:
    """Run the checks that ``what`` asks for; return the exit status."""
    wanted = registry.select(what)
    root = paths.package_root(savepoint)
    seed = new_seed() if seed is None else seed
    # A bare package has no notebook to have predicted in: those checks do not apply to it.
    applicable = [c for c in wanted if c.kind != "prediction" or _notebook(c, root).exists()]
    if not applicable:
        raise registry.UnknownName(f"{wanted[0].id} is answered in a notebook; {root} has none.")
    verdicts: list[Verdict] = []
    with _completed(root, complete_from) as package, contextlib.closing(start_runner()) as runner:
        for check in applicable:
            verdict = judge(check, package, runner, seed=seed, answer=_answer(check, root))
            verdicts.append(verdict)
            typer.echo(json.dumps(verdict.as_json()) if as_json else verdict.as_text())
    if not as_json:
        _summary(verdicts, root, seed, skipped=len(wanted) - len(applicable))
    if any(v.status is Status.GRADER_FAULT for v in verdicts):
        return 3
    return 0 if all(v.status is Status.PASSED for v in verdicts) else 1


def _notebook(check: Check, root: Path) -> Path:
    return root / f"{registry.incidents()[check.incident].notebook}.ipynb"


def _answer(check: Check, root: Path) -> Any:
    return answers.committed(check, _notebook(check, root)) if check.kind == "prediction" else None


def _summary(verdicts: list[Verdict], root: Path, seed: int, skipped: int) -> None:
    points = sum(v.points for v in verdicts)
    possible = sum(v.max_points for v in verdicts)
    passed = sum(v.status is Status.PASSED for v in verdicts)
    typer.echo(f"\n{passed} of {len(verdicts)} checks passed, {points:g} of {possible:g} points.")
    typer.echo(f"Checked {root / 'savepoint'}. To repeat these draws: --seed {seed}")
    if skipped:
        typer.echo(f"{skipped} prediction(s) left out: there is no notebook beside the package.")


@contextlib.contextmanager
def _completed(root: Path, complete_from: Path | None) -> Iterator[Path]:
    """``root``, or a copy of it in which the modules that it lacks come from elsewhere."""
    if complete_from is None:
        yield root
        return
    source = paths.package_root(complete_from)
    with tempfile.TemporaryDirectory(prefix="completed-") as temporary:
        copy = Path(temporary).resolve()
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source / "savepoint", copy / "savepoint", ignore=ignore)
        shutil.copytree(root / "savepoint", copy / "savepoint", ignore=ignore, dirs_exist_ok=True)
        yield copy
