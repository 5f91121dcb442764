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


def create(directory: Path, only: str | None = None) -> str:
    """Write the class's directory; return what to do next. Raises CannotCreate.

    ``only`` names the notebooks to begin with, as in "00,01": the others are added later.
    """
    stems = notebooks(only) if only else None
    directory = directory.expanduser().resolve()
    if directory.is_relative_to(ROOT):
        raise CannotCreate(
            f"{directory} is inside the course's repository. Student data never lives there: "
            "choose a directory of its own, such as ~/cs101."
        )
    if directory.exists() and any(directory.iterdir()):
        raise CannotCreate(f"{directory} is not empty; nothing was written.")
    build.write_source(directory / "source" / build.ASSIGNMENT, stems)
    (directory / "nbgrader_config.py").write_text(CONFIG, encoding="utf-8")
    return f"""{directory} is a class now. In it:

    nbgrader generate_assignment {build.ASSIGNMENT}
        makes what you hand out, release/{build.ASSIGNMENT}/
    nbgrader autograde {build.ASSIGNMENT}
        once submissions are in submitted/<student>/{build.ASSIGNMENT}/
    nbgrader generate_feedback {build.ASSIGNMENT}
    nbgrader export

grader/README.md in the course's repository has the whole path, and says what is protected."""


def add(directory: Path, only: str) -> str:
    """Add notebooks to a class's source: this week's. Raises CannotCreate, UnknownName.

    One assignment grows, so there is one gradebook column a notebook and one ``savepoint``, which
    a learner's next notebook builds on. What the source has already is not touched.
    """
    source = directory.expanduser().resolve() / "source" / build.ASSIGNMENT
    if not source.is_dir():
        raise CannotCreate(
            f"{directory} is no class: it has no source/{build.ASSIGNMENT}. Run this in a class's "
            "directory, or name it with --class; `course classroom new` makes one."
        )
    wanted = notebooks(only)
    there = {path.stem for path in source.glob("*.ipynb")}
    build.write_notebooks(source, wanted - there)
    lines = [f"{stem} is there already, and was left as it is." for stem in sorted(wanted & there)]
    if new := sorted(wanted - there):
        lines.append(f"Added {', '.join(new)}. To hand out the assignment as it is now:")
        lines.append(f"    nbgrader generate_assignment {build.ASSIGNMENT} --force")
        lines.append("Learners add the new notebooks to the folder they have, and keep savepoint/.")
    return "\n".join(lines)


def notebooks(only: str) -> set[str]:
    """The notebooks that "00,01" or "lr_reset" names, as stems. Raises UnknownName."""
    built = {source.stem for source in build.sources()}
    found = set()
    for what in filter(None, re.split(r"[\s,]+", only)):
        incident = registry.incidents()[registry.select(what)[0].incident]
        if incident.notebook not in built:
            raise registry.UnknownName(f"{incident.notebook} is not written yet.")
        found.add(incident.notebook)
    return found
