"""``course classroom new``: a class's directory, outside of this repository."""

from __future__ import annotations

import re
from pathlib import Path

from grader import registry
from grader.paths import ROOT
from grader.release import build

CONFIG = '''"""nbgrader's configuration for this class; what you set here wins."""

from grader.classroom.config import configure

c = get_config()  # noqa: F821 (nbgrader provides it)
configure(c)

# For example, a name for the exchange:
# c.CourseDirectory.course_id = "cs101"
'''


class CannotCreate(Exception):
    """The class's directory cannot be made where it was asked for."""


def create(directory: Path) -> str:
    """Write the class's directory; return what to do next. Raises CannotCreate."""
    directory = directory.expanduser().resolve()
    if directory.is_relative_to(ROOT):
        raise CannotCreate(
            f"{directory} is inside the course's repository. Student data never lives there: "
            "choose a directory of its own, such as ~/cs101."
        )
    if directory.exists() and any(directory.iterdir()):
        raise CannotCreate(f"{directory} is not empty; nothing was written.")
    build.write_source(directory / "source" / build.ASSIGNMENT)
    (directory / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    return f"""{directory} is a class now. In it:

    nbgrader generate_assignment {build.ASSIGNMENT}
        makes what you hand out, release/{build.ASSIGNMENT}/
    course grade
        once submissions are in submitted/<student>/{build.ASSIGNMENT}/
    jupyter lab
        Nbgrader > Formgrader: the written root causes, which a person marks
    nbgrader generate_feedback {build.ASSIGNMENT}
    nbgrader export
    course report

grader/README.md in the course's repository has the whole path, and says what is protected."""


def release(directory: Path, only: str) -> str:
    """Make what a class hands out this week: the assignment with these notebooks alone.

    There is one assignment and one ``savepoint``, on which each notebook builds. nbgrader fixes an
    assignment's notebooks at the first submission, so all are in the gradebook from the start, and
    only what is handed out grows. Raises CannotCreate, UnknownName, ReleaseError.
    """
    directory = directory.expanduser().resolve()
    source = directory / "source" / build.ASSIGNMENT
    if not source.is_dir():
        raise CannotCreate(
            f"{directory} is no class: it has no source/{build.ASSIGNMENT}. Run this in a class's "
            "directory, or name it with --class; `course classroom new` makes one."
        )
    there = {path.stem for path in source.glob("*.ipynb")}
    wanted = notebooks(only)
    if missing := sorted(wanted - there):
        raise CannotCreate(f"This class's source has no {', '.join(missing)}.")
    build.generate_assignment(directory, force=True)
    released = directory / "release" / build.ASSIGNMENT
    for stem in there - wanted:
        (released / f"{stem}.ipynb").unlink()
    return f"""{released} has {", ".join(sorted(wanted))} now, and the whole of savepoint/.
Hand it out; learners add the new notebooks to the folder they have, and keep their savepoint/.
Next week name these and the next one: what is not named is not in it."""


def notebooks(only: str) -> set[str]:
    """The notebooks that "00,01" or "lr_reset" names, as stems. Raises UnknownName."""
    names = filter(None, re.split(r"[\s,]+", only))
    checks = [registry.select(name)[0] for name in names]
    return {registry.incidents()[check.incident].notebook for check in checks}
