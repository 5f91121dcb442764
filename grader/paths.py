"""Where things are: the course's checkout, the learner's copy, a package under test."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOLUTIONS = ROOT / "solutions"
NOTEBOOKS = ROOT / "notebooks"
WORK = ROOT / "work"


class NoPackage(LookupError):
    """There is no ``savepoint`` package where one was looked for."""


def package_root(given: Path | None = None) -> Path:
    """The directory that holds the ``savepoint`` package to check.

    ``given`` may be that directory or the package itself. Without it: the working directory if it
    holds one (a notebook's does), then ``work/``. Raises NoPackage saying what to do.
    """
    if given is not None:
        given = given.resolve()
        if (given / "savepoint").is_dir():
            return given
        if given.name == "savepoint" and given.is_dir():
            return given.parent
        raise NoPackage(
            f"{given} holds no savepoint package. Give the directory that contains savepoint/."
        )
    for place in (Path.cwd(), *Path.cwd().parents):
        if _is_package(place / "savepoint"):
            return place
        if place == ROOT:
            break
    if (WORK / "savepoint").is_dir():
        return WORK
    raise NoPackage("There is no learner's copy yet. `course start` makes one in work/.")


def _is_package(folder: Path) -> bool:
    # Any one of these may have been deleted by mistake; the copy is still the one that is meant.
    return folder.is_dir() and (
        (folder / "__init__.py").exists()
        or (folder / "checkpoint.py").exists()
        or (folder.parent / ".course").is_dir()
    )
