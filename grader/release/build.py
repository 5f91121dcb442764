"""Build the release, compare it with what is committed, put it in place. Fails closed."""

from __future__ import annotations

import base64
import filecmp
import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from grader.paths import NOTEBOOKS, ROOT, SOLUTIONS
from grader.release import convert, timetable
from grader.release.stubs import ANY_MARK, StubError, solution_lines, stub

ASSIGNMENT = "bit_for_bit"
PICTURE = ROOT / "docs" / "incident.png"
MIN_LEAK = 25  # characters; shorter solution lines ("return state") also stand elsewhere


class ReleaseError(Exception):
    """The release could not be built, or would have given a solution away."""


def release(*, execute: bool = True) -> list[str]:
    """Build everything and put it in place; return a line for each file that changed."""
    changed = []
    with tempfile.TemporaryDirectory(prefix="release-") as temporary:
        built = Path(temporary) / "notebooks"
        build(built)
        changed += _put_in_place(built, NOTEBOOKS)
    for source in sources():
        notebook = source.with_suffix(".ipynb")
        if execute and not _same_sources(convert.read(source), notebook):
            notebook.write_text(convert.dumps(run(source)), encoding="utf-8")
            changed.append(f"executed {notebook.relative_to(ROOT)}")
    picture = _first_figure(SOLUTIONS / "01_lr_reset.ipynb")
    if picture and (not PICTURE.exists() or PICTURE.read_bytes() != picture):
        PICTURE.write_bytes(picture)
        changed.append(f"drew {PICTURE.relative_to(ROOT)}")
    guide = timetable.GUIDE.read_text(encoding="utf-8")
    if (filled := timetable.fill(guide)) != guide:
        timetable.GUIDE.write_text(filled, encoding="utf-8")
        changed.append(f"timetables in {timetable.GUIDE.relative_to(ROOT)}")
    return changed or ["Everything is up to date."]


def _first_figure(notebook: Path) -> bytes | None:
    """The PNG of the first figure in an executed notebook: the README shows what 01 measured."""
    found = re.search(r"data:image/png;base64,([A-Za-z0-9+/=]+)", notebook.read_text("utf-8"))
    return base64.b64decode(found[1]) if found else None


def check() -> list[str]:
    """A line for each committed file that is not what would be built."""
    with tempfile.TemporaryDirectory(prefix="release-") as temporary:
        built = Path(temporary) / "notebooks"
        build(built)
        differences = [
            f"{path} is not what `course release` builds" for path in _differing(built, NOTEBOOKS)
        ]
    for source in sources():
        if not _same_sources(convert.read(source), source.with_suffix(".ipynb")):
            differences.append(f"solutions/{source.stem}.ipynb was not executed from {source.name}")
    guide = timetable.GUIDE.read_text(encoding="utf-8")
    if timetable.fill(guide) != guide:
        differences.append(f"{timetable.GUIDE.relative_to(ROOT)} has other timetables")
    return differences


def sources() -> list[Path]:
    """The notebooks' sources, in the course's order."""
    return sorted(SOLUTIONS.glob("[0-9][0-9]_*.py"))


def build(into: Path) -> None:
    """Write the learner's notebooks and stubs under ``into``. Raises ReleaseError."""
    with tempfile.TemporaryDirectory(prefix="course-") as temporary:
        course = Path(temporary).resolve()
        write_source(course / "source" / ASSIGNMENT)
        generate_assignment(course)
        released = course / "release" / ASSIGNMENT
        into.mkdir(parents=True)
        for path in sorted(released.glob("*.ipynb")):
            nb = convert.normalise(nbformat.read(path, as_version=4), path.stem)
            (into / path.name).write_text(convert.dumps(nb), encoding="utf-8")
        shutil.copytree(released / "savepoint", into / "savepoint")
    refuse_leaks(into)


def write_source(directory: Path) -> None:
    """An nbgrader source directory: the instructor's notebooks, the complete package, the rest."""
    directory.mkdir(parents=True)
    _write_notebooks(directory)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(SOLUTIONS / "savepoint", directory / "savepoint", ignore=ignore)
    for text in ("README.md", "AGENTS.md"):
        shutil.copyfile(NOTEBOOKS / text, directory / text)
    for extra in learner_extras():
        shutil.copytree(extra, directory / extra.name, ignore=ignore)


def _write_notebooks(directory: Path) -> None:
    """The instructor's notebooks as nbgrader wants its sources. Raises ReleaseError."""
    for source in sources():
        try:
            text = convert.dumps(convert.read(source))
        except convert.SourceError as error:
            raise ReleaseError(str(error)) from None
        (directory / f"{source.stem}.ipynb").write_text(text, encoding="utf-8")


def learner_extras() -> list[Path]:
    """Directories under notebooks/ that are handed out as they are; workbench is installed."""
    built = {"savepoint", "workbench"}
    return sorted(
        path
        for path in NOTEBOOKS.iterdir()
        if path.is_dir() and path.name not in built and not path.name.startswith((".", "__"))
    )


def generate_assignment(course: Path, *, force: bool = False) -> None:
    """nbgrader's own command, on the class at ``course``. Raises ReleaseError."""
    from nbgrader.apps import NbGraderAPI
    from traitlets.config import Config

    from grader.classroom.config import configure

    config = Config()
    configure(config)
    config.CourseDirectory.root = str(course)
    config.CourseDirectory.db_url = f"sqlite:///{course / 'gradebook.db'}"
    with _on_path():
        result: dict[str, Any] = NbGraderAPI(config=config).generate_assignment(
            ASSIGNMENT, force=force
        )
    if not result.get("success"):
        log = str(result.get("log") or result.get("error"))[-3000:]
        raise ReleaseError(f"nbgrader's generate_assignment failed:\n{log}")


class _on_path:
    """nbgrader calls ``alembic`` by name: this environment's bin must be on PATH."""

    def __enter__(self) -> None:
        import sys

        self.before = os.environ.get("PATH", "")
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{self.before}"

    def __exit__(self, *_: object) -> None:
        os.environ["PATH"] = self.before


def refuse_leaks(tree: Path) -> None:
    """Raise ReleaseError if a solution's or a hidden test's text stands anywhere under ``tree``."""
    secret, public = _secret_lines()
    secrets = {line for line in secret - public if len(line) >= MIN_LEAK}
    for path in sorted(tree.rglob("*")):
        if path.suffix not in (".py", ".ipynb", ".md", ".json"):
            continue
        text = _plain(path)
        if mark := ANY_MARK.search(text):
            raise ReleaseError(f"{path.name} still has {mark[0]!r}")
        lines = {line.strip() for line in text.splitlines()}
        if leaked := sorted(secrets & lines):
            raise ReleaseError(f"{path.name} gives away: {leaked[0]}")


def _plain(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    sources = [cell["source"] for cell in cells]
    return "\n".join(s if isinstance(s, str) else "".join(s) for s in sources)


def _secret_lines() -> tuple[set[str], set[str]]:
    """(lines inside solution and hidden-test regions, lines outside of them) of all sources."""
    secret: set[str] = set()
    public: set[str] = set()
    for path in sorted((SOLUTIONS / "savepoint").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        try:
            secret |= solution_lines(text, path.name)
            public |= {line.strip() for line in stub(text, path.name).splitlines()}
        except StubError as error:
            raise ReleaseError(str(error)) from None
    region = re.compile(
        r"^### BEGIN (SOLUTION|HIDDEN TESTS)\n(.*?)^### END \1$", re.DOTALL | re.MULTILINE
    )
    for path in sources():
        for cell in convert.read(path).cells:
            for found in region.finditer(cell.source):
                secret |= {line.strip() for line in found[2].splitlines()}
            public |= {line.strip() for line in region.sub("", cell.source).splitlines()}
    return secret, public


def execute(source: Path, timeout: int = 300, cwd: Path | None = None) -> nbformat.NotebookNode:
    """Run the instructor's notebook beside its package; raises on the first error."""
    nb = convert.read(source)
    cwd = cwd or source.parent
    client = NotebookClient(
        nb, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(cwd)}}
    )
    client.execute()
    return nb


def run(source: Path, timeout: int = 300, cwd: Path | None = None) -> nbformat.NotebookNode:
    """``execute``, and the notebook as it is committed: without what differs from run to run."""
    nb = convert.normalise(execute(source, timeout, cwd), source.stem)
    if str(ROOT) in convert.dumps(nb):
        raise ReleaseError(f"{source.stem}: an output shows where this checkout is ({ROOT})")
    return nb


def _same_sources(nb: nbformat.NotebookNode, committed: Path) -> bool:
    if not committed.exists():
        return False
    other = nbformat.read(committed, as_version=4)
    return [(c.cell_type, c.source, c.metadata.get("nbgrader")) for c in nb.cells] == [
        (c.cell_type, c.source, c.metadata.get("nbgrader")) for c in other.cells
    ]


def _files(tree: Path) -> dict[str, Path]:
    """What a release owns under ``tree``: top-level notebooks, and the package's modules."""
    found = [*tree.glob("*.ipynb"), *(tree / "savepoint").glob("*.py")]
    return {path.relative_to(tree).as_posix(): path for path in sorted(found)}


def _differing(built: Path, committed: Path) -> list[str]:
    new, old = _files(built), _files(committed)
    return [
        f"notebooks/{name}"
        for name in sorted(set(new) | set(old))
        if name not in new
        or name not in old
        or not filecmp.cmp(new[name], old[name], shallow=False)
    ]


def _put_in_place(built: Path, committed: Path) -> list[str]:
    changed = _differing(built, committed)
    new = _files(built)
    for name in changed:
        relative = name.removeprefix("notebooks/")
        target = committed / relative
        if relative in new:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(new[relative], target)
        else:
            target.unlink()
    return [f"built {name}" for name in changed]
