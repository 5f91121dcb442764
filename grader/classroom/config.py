"""nbgrader's configuration for this course. A class's nbgrader_config.py is two lines:

from grader.classroom.config import configure
configure(get_config())
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbconvert.preprocessors import Preprocessor
from nbgrader.converters import Autograde, GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Bool

from grader.paths import SOLUTIONS
from grader.release.stubs import stub

ASSIGNMENT = "bit_for_bit"
# nbgrader's feedback page in a narrow window: a score lies on its cell's source, code is cut off,
# tables and names stick out. Its own style comes after this one, hence the longer selectors.
FEEDBACK_STYLE = """
body div.nbgrader_cell .panel-heading { height: auto; overflow: auto; }
div.nbgrader_cell .input_area { display: block; }
#notebook-container table { display: block; overflow-x: auto; }
#notebook-container th, #notebook-container td { padding-right: 1em; text-align: left; }
#notebook-container code { white-space: normal; overflow-wrap: anywhere; }
@media (max-width: 40rem) {
  body > .container, #notebook, body #notebook-container { padding-left: 4px; padding-right: 4px; }
}
"""


class StripSavepoint(NbGraderPreprocessor):
    """Take the solutions out of savepoint/*.py: generate_assignment copies .py files verbatim.

    First in the list, and a preprocessor rather than a hook: what it raises fails the release.
    """

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        course = CourseDirectory(parent=self)
        released = Path(
            course.format_path(course.release_directory, ".", resources["nbgrader"]["assignment"])
        )
        for path in sorted(released.glob("savepoint/*.py")):
            path.write_text(stub(path.read_text(encoding="utf-8"), path.name), encoding="utf-8")
        return nb, resources


class DropEmptyMetadata(NbGraderPreprocessor):
    """An empty nbgrader dict in one copied cell would abort a whole batch."""

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        for cell in nb.cells:
            if not cell.metadata.get("nbgrader", True):
                del cell.metadata["nbgrader"]
        return nb, resources


class StyleFeedback(Preprocessor):
    """Add to the style sheets that the page's template has collected before."""

    enabled = Bool(True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        resources.setdefault("inlining", {}).setdefault("css", []).append(FEEDBACK_STYLE)
        return nb, resources


def configure(c: Any) -> None:
    """Set on nbgrader's config object what this course needs; a class may override it after."""
    c.CourseDirectory.course_id = "bit_for_bit"
    root = c.CourseDirectory.root if "root" in c.CourseDirectory else str(Path.cwd())
    # Two graders at once wait for each other instead of failing.
    c.CourseDirectory.db_url = f"sqlite:///{Path(root) / 'gradebook.db'}?timeout=60"
    c.CourseDirectory.ignore = [
        ".ipynb_checkpoints",
        "*.pyc*",
        "__pycache__",
        "feedback",
        ".course",
        ".git",
    ]

    c.GenerateAssignment.preprocessors = [
        StripSavepoint,
        *GenerateAssignment.preprocessors.default(),
    ]
    # The only code cells that learners fill in are predictions.
    c.ClearSolutions.code_stub = {"python": 'prediction = "?"  # your letter, as text'}
    c.ClearSolutions.text_stub = "*Write here.*"

    # Without this, autograde replaces the learner's modules by the solution's.
    c.Autograde.exclude_overwriting = {
        ASSIGNMENT: [f"savepoint/{p.name}" for p in sorted((SOLUTIONS / "savepoint").glob("*.py"))]
    }
    c.Autograde.sanitize_preprocessors = [
        DropEmptyMetadata,
        *Autograde.sanitize_preprocessors.default(),
    ]
    c.GenerateFeedback.preprocessors = [
        *GenerateFeedback.preprocessors.default(),
        StyleFeedback,
    ]
    # Without this, what was made before a person's mark or a second grading stays as it was.
    c.GenerateFeedback.force = True
    # A deleted check cell comes back, rather than waiting for a mark for ever.
    c.OverwriteCells.add_missing_cells = True
    # Longer than the longest check takes to give up on a package that hangs.
    c.Execute.timeout = 180
    # On a busy machine the default 4 s between a cell's reply and its last output are too few:
    # nbgrader then gives up on the student, with no mark.
    c.Execute.iopub_timeout = 60
    c.Execute.startup_timeout = 180
    c.Execute.shutdown_kernel = "immediate"
