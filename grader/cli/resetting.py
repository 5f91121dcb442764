"""``course reset``: one file as it was handed out. What was there is kept, and said where."""

from __future__ import annotations

import difflib
import shutil
import sys
import time
from pathlib import Path

from grader import paths, registry
from grader.cli.console import confirm, say
from grader.remembered import STATE

KEPT = "kept"


class CannotReset(Exception):
    """Nothing was changed; the message says why."""


def reset(what: str, *, yes: bool) -> bool:
    """Put a module or a notebook back; False if the answer was no. Raises CannotReset."""
    root = paths.package_root()
    if root in (paths.SOLUTIONS, paths.NOTEBOOKS):
        raise CannotReset(
            f"{root} is the course itself, not a copy of yours. Run this in your copy; "
            "`course start` makes one."
        )
    name = resolve(what, root)
    target, original = root / name, paths.NOTEBOOKS / name
    if target.exists() and target.read_bytes() == original.read_bytes():
        say(f"{name} is as it was handed out; there is nothing to reset.")
        return True
    if target.exists() and not yes:
        if not sys.stdin.isatty():
            raise CannotReset(f"Nothing was changed: add --yes to reset {name} without a question.")
        if not confirm(f"Put {name} back as it was handed out? Yours is kept."):
            say("Nothing was changed.")
            return False
    kept = put_back(root, name)
    say(f"{name} is as it was handed out.")
    if kept:
        say(f"Yours is kept: {kept}")
    if name.endswith(".ipynb"):
        say("If it is open in JupyterLab: File, Reload Notebook from Disk.")
        modules = _incident_of(name).modules
        say(f"Your modules were not touched; `course reset {modules[0]}` resets one.")
    return True


def resolve(what: str, root: Path) -> str:
    """The file's name in a copy that ``what`` means: a module, or a notebook by name or number."""
    given = what.replace("\\", "/").removeprefix("./").removeprefix("savepoint/")
    stem = given.removesuffix(".py").removesuffix(".ipynb")
    modules = {path.stem for path in (paths.NOTEBOOKS / "savepoint").glob("*.py")}
    if not given.endswith(".ipynb") and stem in modules:
        return f"savepoint/{stem}.py"
    for incident in registry.incidents().values():
        number = stem.isdecimal() and int(stem) == incident.number
        if (number or stem in (incident.name, incident.notebook)) and not given.endswith(".py"):
            return f"{incident.notebook}.ipynb"
    known = sorted(modules) + [i.notebook for i in registry.incidents().values()]
    near = difflib.get_close_matches(stem, known, n=2, cutoff=0.5)
    if (root / "savepoint" / f"{stem}.py").exists():
        raise CannotReset(f"savepoint/{stem}.py is your own: the course never handed it out.")
    raise CannotReset(
        f"There is no module or notebook {what!r}. "
        + (f"Did you mean {' or '.join(near)}? " if near else "")
        + "Modules: "
        + ", ".join(sorted(modules - {"__init__"}))
        + "; notebooks by number, such as 01."
    )


def put_back(root: Path, name: str) -> Path | None:
    """Copy the handed-out file over the learner's; return where theirs is kept now."""
    target, original = root / name, paths.NOTEBOOKS / name
    if not original.exists():
        raise CannotReset(f"This course has no {name} yet.")
    kept = None
    try:
        if target.exists():
            kept = _free_name(root / STATE / KEPT, Path(name))
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(target, kept)  # first the copy; then, and only then, the original
        target.parent.mkdir(parents=True, exist_ok=True)
        fresh = target.with_name(f".{target.name}.reset")
        shutil.copyfile(original, fresh)
        fresh.replace(target)
    except OSError as error:
        raise CannotReset(f"Nothing was changed: {error}") from None
    return kept


def _free_name(folder: Path, name: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    candidate = folder / f"{name.stem}-{stamp}{name.suffix}"
    number = 2
    while candidate.exists():
        candidate = folder / f"{name.stem}-{stamp}-{number}{name.suffix}"
        number += 1
    return candidate


def _incident_of(notebook: str) -> registry.Incident:
    return next(i for i in registry.incidents().values() if f"{i.notebook}.ipynb" == notebook)
