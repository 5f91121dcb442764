"""The notebooks run, within their time; and read well without eyes on the figures."""

from __future__ import annotations

import re
import shutil
from itertools import pairwise

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from grader import registry
from grader.paths import NOTEBOOKS, ROOT, SOLUTIONS
from grader.release import build, convert

SOURCES = build.sources()
EXECUTED = [source.with_suffix(".ipynb") for source in SOURCES]
FIXTURES = ROOT / "tests" / "fixtures"


def execute(nb, cwd):
    resources = {"metadata": {"path": str(cwd)}}
    NotebookClient(nb, timeout=300, kernel_name="python3", resources=resources).execute()
    return nb


def _incident(source):
    return next(i for i in registry.incidents().values() if i.notebook == source.stem)


@pytest.mark.slow
@pytest.mark.timeout(900)  # its seconds are `make bench`'s to measure, on a quiet machine
@pytest.mark.parametrize("source", SOURCES, ids=lambda p: p.stem)
def test_solution_runs_without_error(source):
    nb = build.run(source, timeout=600)
    outputs = [o for c in nb.cells if c.cell_type == "code" for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    for cell in nb.cells:
        mark = cell.metadata.get("nbgrader", {})
        if mark.get("grade") and cell.cell_type == "code":
            # nbgrader scores 0 for anything on stderr, and reads the bare points.
            assert not [o for o in cell.outputs if o.get("name") == "stderr"]
            shown = cell.outputs[0].data
            assert float(shown["text/plain"]) == mark["points"], shown["text/html"]


# Validate runs the stubs of all of them: test_cli_class.py. A cell's number and page are `check`'s.
@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES[5:6], ids=lambda p: p.stem)
def test_stub_notebook_runs_to_its_end_and_earns_nothing(source, tmp_path):
    for name in ("savepoint", *(p.name for p in build.learner_extras())):
        shutil.copytree(NOTEBOOKS / name, tmp_path / name)
    nb = nbformat.read(NOTEBOOKS / f"{source.stem}.ipynb", as_version=4)
    execute(nb, tmp_path)
    for cell in nb.cells:
        mark = cell.metadata.get("nbgrader", {})
        if mark.get("grade") and cell.cell_type == "code" and cell.source:
            assert float(cell.outputs[0].data["text/plain"]) == 0
            html = cell.outputs[0].data["text/html"]
            assert "not implemented" in html and "Not yet" in html


def test_a_bad_notebook_fails(tmp_path):
    """The tooling notices: a cell that raises stops the run, and is not released as executed."""
    nb = nbformat.read(_fixture(tmp_path), as_version=4)
    with pytest.raises(CellExecutionError, match="known to be bad"):
        execute(nb, tmp_path)


def test_a_notebook_that_no_incident_knows_is_refused():
    with pytest.raises(convert.SourceError, match="bad_cell"):
        convert.read(FIXTURES / "bad_cell.py")


def _fixture(folder):
    import jupytext

    target = folder / "bad.ipynb"
    nbformat.write(jupytext.read(FIXTURES / "bad_cell.py"), target)
    return target


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_headings_are_in_order_and_there_is_one_h1(path):
    nb = nbformat.read(path, as_version=4)
    levels = []
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"```.*?```", "", cell.source, flags=re.DOTALL)
            levels += [len(found) for found in re.findall(r"^(#{1,6}) ", text, re.MULTILINE)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), levels


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_every_image_has_alt_text_and_its_numbers(path):
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            assert "image/png" not in data, "a figure went around workbench.figures.show"
            for image in re.findall(r"<img[^>]*>", data.get("text/html", "")):
                alt = re.search(r'alt="([^"]+)"', image)
                assert alt and len(alt[1]) > 40
                assert "<details>" in data["text/html"]


@pytest.mark.parametrize("path", EXECUTED, ids=lambda p: p.stem)
def test_nothing_of_this_machine_is_in_an_output(path):
    text = path.read_text(encoding="utf-8")
    assert str(ROOT) not in text
    assert not re.search(r"/(root|home|Users)/\w", text)


def test_shape_of_an_incident():
    """DESIGN 4: the eleven sections in their order."""
    wanted = [
        "Incident report",
        "Predict",
        "Reproduce",
        "Measure",
        "Explain",
        "Implement",
        "Check",
        "Replay",
        "Myth against measurement",
        "Take home",
    ]
    for source in SOURCES:
        if _incident(source).number in range(1, 7):
            found = re.findall(r"^# ## (\d+)\. (.+)$", source.read_text(), re.MULTILINE)
            assert found == [(str(n), title) for n, title in enumerate(wanted, 1)], source.stem


def test_the_course_never_teaches_the_unsafe_switch():
    for path in [*SOLUTIONS.glob("*.py"), *NOTEBOOKS.glob("*.md")]:
        for line in path.read_text().splitlines():
            if line.startswith("# ") and "weights_only=False" in line:
                assert re.search(r"\b(never|not|wrong|unsafe|refus)", line, re.I), line
