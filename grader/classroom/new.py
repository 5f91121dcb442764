"""``course classroom new``: a class's directory, outside of this repository."""

from __future__ import annotations

from pathlib import Path

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
    nbgrader autograde {build.ASSIGNMENT}
        once submissions are in submitted/<student>/{build.ASSIGNMENT}/
    nbgrader generate_feedback {build.ASSIGNMENT}
    nbgrader export

grader/README.md in the course's repository has the whole path, and says what is protected."""
