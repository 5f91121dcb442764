"""``course check``: run checks on a package and print what they decided."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from grader import answers, paths, registry, remembered
from grader.cli.console import is_terminal, say, width
from grader.client import Runner, start_runner
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
            # A narrow terminal gets two lines; a pipe always one, for grep.
            if is_terminal() and width() < 80:
                say(f"{check.id}   {points}\n    {check.title}")
            else:
                say(f"{check.id:32} {points:10} {check.title}", indent=44)


def run(
    what: str | None,
    savepoint: Path | None,
    complete_from: Path | None,
    seed: int | None,
    *,
    as_json: bool,
    with_torchrun: bool = False,
) -> int:
    """Run the checks that ``what`` asks for; return the exit status.

    Verdicts on the learner's own copy are remembered, for `course progress`.
    """
    if with_torchrun:
        os.environ["BIT_FOR_BIT_RANKS"] = "torchrun"  # start_runner reads it
    wanted = registry.select(what)
    root = paths.package_root(savepoint)
    seed = new_seed() if seed is None else seed
    # A bare package has no notebook to have predicted in: those checks do not apply to it.
    applicable = [c for c in wanted if applies(c, root)]
    if not applicable:
        raise registry.UnknownName(f"{wanted[0].id} is answered in a notebook; {root} has none.")
    verdicts: list[Verdict] = []
    # A directory that was named may be anybody's: it is looked at, and nothing is left in it.
    own = complete_from is None and (savepoint is None or (root / remembered.STATE).is_dir())
    with _completed(root, complete_from) as package, contextlib.closing(start_runner()) as runner:
        for check in applicable:
            verdict = check_one(check, root, runner, seed, package=package, keep=own)
            verdicts.append(verdict)
            if as_json:
                typer.echo(json.dumps(verdict.as_json()))
            else:
                say(verdict.as_text())
    if not as_json:
        _summary(verdicts, root, seed, skipped=len(wanted) - len(applicable))
    if any(v.status is Status.GRADER_FAULT for v in verdicts):
        return 3
    return 0 if all(v.status is Status.PASSED for v in verdicts) else 1


def check_one(
    check: Check,
    root: Path,
    runner: Runner,
    seed: int | None = None,
    *,
    package: Path | None = None,
    keep: bool = True,
) -> Verdict:
    """Judge one check on ``root`` (or on ``package`` in its place); ``keep`` it for progress."""
    # Taken before the files are read: an edit meanwhile makes the verdict stale, never false.
    of = remembered.digest(registry.incidents()[check.incident], root) if keep else ""
    verdict = judge(check, package or root, runner, seed=seed, answer=_answer(check, root))
    if keep:
        remembered.remember(verdict, root, of)
    return verdict


def _written(check_id: str) -> bool:
    """Whether a check is passed by code, which the reference then has too."""
    return registry.checks()[check_id].kind != "prediction"


def applies(check: Check, root: Path) -> bool:
    """Whether a check can be run on ``root``: a prediction needs its notebook."""
    return check.kind != "prediction" or _notebook(check, root).exists()


def _notebook(check: Check, root: Path) -> Path:
    return root / f"{registry.incidents()[check.incident].notebook}.ipynb"


def _answer(check: Check, root: Path) -> Any:
    return answers.committed(check, _notebook(check, root)) if check.kind == "prediction" else None


def _summary(verdicts: list[Verdict], root: Path, seed: int, skipped: int) -> None:
    points = sum(v.points for v in verdicts)
    possible = sum(v.max_points for v in verdicts)
    passed = sum(v.status is Status.PASSED for v in verdicts)
    say(f"\n{passed} of {len(verdicts)} checks passed, {points:g} of {possible:g} points.")
    say(f"Checked {root / 'savepoint'}. To repeat these draws: --seed {seed}")
    if root == paths.NOTEBOOKS:
        say("These are the stubs as they are handed out. `course start` makes a copy of your own.")
    if skipped:
        say(f"{skipped} prediction(s) left out: there is no notebook beside the package.")
    shown = next((v.check for v in verdicts if v.status is Status.PASSED and _written(v.check)), "")
    if shown and remembered.is_copy(root):
        say(f"How the reference does what passes: course solution {shown}")


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
