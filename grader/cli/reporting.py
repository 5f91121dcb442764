"""``course report``: the page and the CSV files of the class in the working directory."""

from __future__ import annotations

from pathlib import Path

from grader.classroom.store import Store
from grader.cli.console import say
from grader.report import lms, page
from grader.report.collect import collect

PAGE = "index.html"


class CannotReport(Exception):
    """There is nothing to report on."""


def run(root: Path, out: Path, rows: int) -> None:
    """Write the report on the class in ``root`` into ``out``. Raises CannotReport."""
    if not (root / "nbgrader_config.py").exists():
        raise CannotReport(
            f"{root} is not a class: it has no nbgrader_config.py. Run this in a class's directory."
        )
    of = collect(Store(root))
    if not of.chapters:
        raise CannotReport("There are no verdicts yet: `course grade` reaches them.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        _write(out / PAGE, page.render(of, rows=rows, title=root.resolve().name))
        students, notebooks = page.count(of.students, "student"), len(of.chapters)
        say(f"{out / PAGE}: {students}, {page.count(notebooks, 'notebook')}.")
        for chapter in of.chapters:
            if chapter.max_points:  # practice has no mark to import
                _csv(chapter, root, out)
    except OSError as error:
        raise CannotReport(f"The report could not be written: {error}") from None
    if of.troubles:
        say(f"{len(of.troubles)} could not be decided; the page's last section says why.")


def _csv(chapter, root: Path, out: Path) -> None:
    notebook = chapter.incident.notebook
    marks, waiting = lms.gradebook(root, notebook, {row.student for row in chapter.rows})
    _write(out / f"{notebook}.csv", lms.render(chapter, marks))
    notes = [] if marks else ["the checks' points alone: no gradebook"]
    if waiting:
        notes.append(f"{waiting} still {'wait' if waiting != 1 else 'waits'} for a mark by hand")
    say(f"{out / notebook}.csv" + (f" ({'; '.join(notes)})" if notes else ""))


def _write(path: Path, content: str) -> None:
    beside = path.with_name(f".{path.name}.new")
    # A lone surrogate, from a file name that is not UTF-8, has no encoding.
    beside.write_text(content, encoding="utf-8", errors="replace")
    beside.replace(path)
