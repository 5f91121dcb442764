"""What a learner is given: built, deterministic, and without a solution in it."""

from __future__ import annotations

import ast
import json
import shutil

import nbformat
import pytest

from grader import registry
from grader.paths import NOTEBOOKS, SOLUTIONS
from grader.release import build, convert
from grader.release.stubs import StubError, solution_lines, stub

MODULES = sorted((SOLUTIONS / "savepoint").glob("*.py"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    target = tmp_path_factory.mktemp("release") / "notebooks"
    build.build(target)
    return target


def test_what_is_committed_is_what_would_be_built():
    assert build.check() == []


def test_two_builds_are_the_same_bytes(built, tmp_path):
    build.build(tmp_path / "again")
    for path in sorted(p for p in built.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(built)).read_bytes()


def test_release_carries_no_output_and_no_tool_metadata(built):
    for path in built.glob("*.ipynb"):
        nb = nbformat.read(path, as_version=4)
        assert "jupytext" not in nb.metadata
        assert len({cell.id for cell in nb.cells}) == len(nb.cells)
        for cell in nb.cells:
            if cell.cell_type == "code":
                assert cell.outputs == [] and cell.execution_count is None


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)
def test_stub_keeps_signatures_and_docstrings(path):
    complete = ast.parse(path.read_text())
    learner = ast.parse((NOTEBOOKS / "savepoint" / path.name).read_text())

    def promises(tree):
        found = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
                head = ast.unparse(node.args) if isinstance(node, ast.FunctionDef) else ""
                found[node.name] = (head, ast.get_docstring(node))
        return found

    offered, whole = promises(learner), promises(complete)
    assert offered.items() <= whole.items()
    if any(path.stem in incident.modules for incident in registry.incidents().values()):
        assert offered


def test_points_come_from_the_toml_and_add_up(built):
    for incident in registry.incidents().values():
        path = built / f"{incident.notebook}.ipynb"
        if not path.exists():
            continue
        nb = nbformat.read(path, as_version=4)
        marks = [cell.metadata.get("nbgrader", {}) for cell in nb.cells]
        points = sum(mark.get("points", 0) for mark in marks if mark.get("grade"))
        # 00 and 07 have no core tasks: practice.
        assert points == (20 if incident.number in range(1, 7) else 0)
        core = {check.task for check in incident.checks if check.kind == "core"}
        assert len({task for tasks in core for task in tasks.split(", ")}) <= 3


def test_hidden_test_is_in_the_source_and_not_in_the_release(built):
    hidden = [check for check in registry.checks().values() if check.hidden]
    assert any(check.incident == "lr_reset" for check in hidden)
    for check in hidden:
        notebook = f"{registry.incidents()[check.incident].notebook}.ipynb"
        if (built / notebook).exists():
            assert f'check("{check.id}"' not in (built / notebook).read_text()


def test_title_is_the_toml_s():
    for source in build.sources():
        title = next(i.title for i in registry.incidents().values() if i.notebook == source.stem)
        first = convert.read(source).cells[0].source.splitlines()[0]
        assert first == f"# {title}"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f():\n    ### BEGIN SOLUTION: x\n    return 1\n", "never ends"),
        ("def f():\n    ### END SOLUTION\n", "never began"),
        ("def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION\n", "label"),
        ("### BEGIN SOLUTION: a\n### BEGIN SOLUTION: b\n### END SOLUTION\n", "inside"),
        ("# see BEGIN SOLUTION below\n", "stray"),
        ("x = 1  ### BEGIN HIDDEN TESTS\n", "stray"),
    ],
)
def test_malformed_regions_are_refused(source, said):
    with pytest.raises(StubError, match=said):
        stub(source)


def test_stub_of_a_stub_is_the_stub():
    head = 'def f():\n    """Doc."""\n'
    source = head + '    ### BEGIN SOLUTION: do "it"\n    return 1\n    ### END SOLUTION\n'
    once = stub(source)
    assert once == head + '    raise NotImplementedError("do \\"it\\"")\n'
    assert stub(once) == once
    assert solution_lines(source) == {"return 1"}


def test_a_leaked_line_refuses_the_release(built, tmp_path):
    tree = tmp_path / "notebooks"
    shutil.copytree(built, tree)
    secret = next(
        line
        for line in sorted(solution_lines(MODULES[2].read_text()))
        if len(line) > 40 and line.isascii()
    )
    nb = nbformat.read(tree / "01_lr_reset.ipynb", as_version=4)
    nb.cells.append(nbformat.v4.new_code_cell(f"# by the way\n{secret}", id="leak"))
    nbformat.write(nb, tree / "01_lr_reset.ipynb")
    with pytest.raises(build.ReleaseError, match="gives away"):
        build.refuse_leaks(tree)


def test_a_marker_refuses_the_release(built, tmp_path):
    tree = tmp_path / "notebooks"
    shutil.copytree(built, tree)
    module = tree / "savepoint" / "checkpoint.py"
    module.write_text(module.read_text() + "### BEGIN SOLUTION: x\n")
    with pytest.raises(build.ReleaseError, match="still has"):
        build.refuse_leaks(tree)


def test_a_notebook_without_its_check_is_refused(tmp_path):
    broken = tmp_path / "01_lr_reset.py"
    source = (SOLUTIONS / "01_lr_reset.py").read_text()
    broken.write_text(source.replace('"grade_id": "lr_reset-momentum"', '"grade_id": "other"'))
    with pytest.raises(convert.SourceError, match="lr_reset-momentum"):
        convert.read(broken)


def test_committed_notebooks_are_json_with_sorted_keys():
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        assert (
            text
            == json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        )
