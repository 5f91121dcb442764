"""How long each notebook runs, beside the seconds on its card: part of `make bench`, never of the
tests.

The notebook is the instructor's, the whole of it executed in a kernel of its own. Ends in 1 where
one runs for longer than its card says. Its checks as the learner meets them: the first to answer,
with the judge that the kernel started when it imported the grader, and the median of the others.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from datetime import datetime

import nbformat

from grader import registry
from grader.paths import SOLUTIONS
from grader.release import build


def main(names: list[str]) -> int:
    over, wanted = 0, {check.incident for name in names for check in registry.select(name)}
    print(
        f"{'notebook':24} {'seconds':>8} {'card':>6} {'ratio':>6} {'1st check':>10} {'others':>7}"
    )
    for incident in registry.incidents().values():
        if wanted and incident.name not in wanted:
            continue
        started = time.perf_counter()
        nb = build.execute(SOLUTIONS / f"{incident.notebook}.py")
        seconds, card = time.perf_counter() - started, incident.seconds
        over += seconds > card
        first, *others = answers(nb)
        line = (
            f"{incident.notebook:24} {seconds:8.1f} {card:6} {seconds / card:6.2f} {first:8.2f} s"
        )
        print(line + (f" {statistics.median(others):5.2f} s" if others else ""))
    return over > 0


def answers(nb: nbformat.NotebookNode) -> list[float]:
    """Seconds of each cell that is a check's and no prediction's."""
    return [
        (_when(cell, "shell.execute_reply") - _when(cell, "iopub.execute_input")).total_seconds()
        for cell in nb.cells
        if cell.cell_type == "code"
        and (found := re.search(r'^check\("([\w.]+)"', cell.source, re.MULTILINE))
        and registry.checks()[found[1]].kind != "prediction"
    ]


def _when(cell: nbformat.NotebookNode, moment: str) -> datetime:
    return datetime.fromisoformat(cell.metadata["execution"][moment])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
