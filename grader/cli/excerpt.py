"""The regions of the reference that answer one check, with the helpers that they use.

A region's label says what it belongs to: "01_lr_reset, task 2: …" or "05_…, further: …". Regions
at module level without a number ("helpers", "imports") are shown as far as what is shown needs
them. Nothing is imported or run: the source is read.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from grader import paths, registry
from grader.registry import Check
from grader.release.stubs import BEGIN, END

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
LABEL = re.compile(r"(?P<notebook>\d\d_\w+), (?:task (?P<task>\d+)|further): ")


@dataclass(frozen=True)
class Region:
    """One solution region: the lines between its markers, and what it stands in."""

    module: str
    label: str
    first: int  # the first line after the opening marker, counted from 0
    last: int  # the line of the closing marker
    around: tuple[Definition, ...]  # outermost first; empty at module level

    @property
    def function(self) -> str:
        return self.around[-1].name if self.around else ""


class Module:
    """A module of the reference, taken apart."""

    def __init__(self, name: str) -> None:
        self.name = name
        path = paths.SOLUTIONS / "savepoint" / f"{name}.py"
        self.lines = path.read_text(encoding="utf-8").splitlines()
        self.tree = ast.parse("\n".join(self.lines))
        self.regions = list(self._regions())

    def _regions(self):
        opened = label = None
        for number, line in enumerate(self.lines):
            if found := BEGIN.match(line):
                opened, label = number + 1, found["label"] or ""
            elif END.match(line) and opened is not None:
                yield Region(self.name, label, opened, number, self._around(opened + 1))
                opened = None

    def _around(self, line: int) -> tuple[Definition, ...]:
        found = [
            node
            for node in ast.walk(self.tree)
            if isinstance(node, Definition) and node.lineno < line <= (node.end_lineno or 0)
        ]
        return tuple(sorted(found, key=lambda node: node.lineno))

    def head(self, node: Definition) -> list[str]:
        """A definition's decorators and signature, without its docstring."""
        start = min([node.lineno, *(d.lineno for d in node.decorator_list)])
        lines = self.lines[start - 1 : node.body[0].lineno - 1]
        return [line for line in lines if not BEGIN.match(line)]


def of(check: Check) -> str:
    """The reference's code for ``check``, as text."""
    incident = registry.incidents()[check.incident]
    modules = [Module(name) for name in incident.modules]
    chosen = _chosen(check, incident.notebook, [r for m in modules for r in m.regions])
    parts = []
    for module in modules:
        mine = [region for region in chosen if region.module == module.name]
        if mine:
            imports, helpers = _helpers(module, mine)
            parts += [f"# savepoint/{module.name}.py", *imports, *_with_heads(module, mine)]
            parts += helpers
    text = "\n\n\n".join(parts)
    return re.sub(r"\n{3,}(?=    )", "\n\n", text)  # one blank line between methods


def _chosen(check: Check, notebook: str, regions: list[Region]) -> list[Region]:
    labelled = [(r, found) for r in regions if (found := LABEL.match(r.label))]
    labelled = [(r, found) for r, found in labelled if found["notebook"] == notebook]
    tasks = re.findall(r"\d+", check.task)
    if check.kind == "further":
        further = [r for r, found in labelled if not found["task"]]
        if further:
            return [r for r in further if _named_by(check, r.function)] or further
    return [r for r, found in labelled if found["task"] in tasks]


def _named_by(check: Check, function: str) -> bool:
    """Whether a further task's id, task, title or hints speak of this function."""
    words = set(function.split("_"))
    names = (check.id.split(".")[1], check.task)
    return bool(function) and (
        any(set(name.split("_")) <= words for name in names)
        or re.search(rf"\b{re.escape(function)}\b", " ".join([check.title, *check.hints]))
        is not None
    )


def _with_heads(module: Module, regions: list[Region]) -> list[str]:
    """Regions, each under the signature of its function; a class is named once."""
    shown: set[str] = set()
    parts = []
    for region in regions:
        block = []
        for node in region.around:
            if node.name not in shown or not isinstance(node, ast.ClassDef):
                block += module.head(node)
            shown.add(node.name)
        parts.append("\n".join([*block, *module.lines[region.first : region.last]]).rstrip())
    return parts


def _helpers(module: Module, regions: list[Region]) -> tuple[list[str], list[str]]:
    """(imports, definitions) of the solution that the regions use, one by way of the other."""
    hidden = [r for r in module.regions if not r.around and r not in regions]
    offered = {
        name: node
        for node in module.tree.body
        if any(r.first < node.lineno <= r.last for r in hidden)
        for name in _names(node)
    }
    text = "\n".join("\n".join(module.lines[r.first : r.last]) for r in regions)
    wanted: dict[int, ast.stmt] = {}
    waiting = [text]
    while waiting:
        words = set(re.findall(r"\w+", waiting.pop()))
        for name, node in offered.items():
            if name in words and node.lineno not in wanted:
                wanted[node.lineno] = node
                waiting.append(_source(module, node))
    nodes = [node for _, node in sorted(wanted.items())]
    imports = [n for n in nodes if isinstance(n, ast.Import | ast.ImportFrom)]
    block = ["\n".join(_source(module, node) for node in imports)] if imports else []
    return block, [_source(module, node) for node in nodes if node not in imports]


def _names(node: ast.stmt) -> list[str]:
    """What a statement at module level defines."""
    if isinstance(node, Definition):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [(alias.asname or alias.name).split(".")[0] for alias in node.names]
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _source(module: Module, node: ast.stmt) -> str:
    decorators = getattr(node, "decorator_list", [])
    start = min([node.lineno, *(d.lineno for d in decorators)])
    return "\n".join(module.lines[start - 1 : node.end_lineno])
