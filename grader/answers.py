"""A learner's answers, read from the notebook file. Nothing is executed."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from grader.registry import Check

NAME = "prediction"


def committed(check: Check, notebook: Path) -> Any:
    """The prediction that stands in the answer cell: a literal, or None where there is none."""
    return literal(cell_source(notebook, f"{check.grade_id}-answer"))


def cell_source(notebook: Path, grade_id: str) -> str:
    """The source of the first cell with this grade_id; "" if there is none, or no notebook."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            if cell["metadata"].get("nbgrader", {}).get("grade_id") == grade_id:
                source = cell["source"]
                return source if isinstance(source, str) else "".join(source)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return ""
    return ""


def literal(source: str) -> Any:
    """The last literal assigned to ``prediction`` in ``source``."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    value = None
    for node in tree.body:
        if (
            isinstance(node, ast.Assign)
            and len(node.targets) == 1
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == NAME
        ):
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                value = None
    return value
