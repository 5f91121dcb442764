"""The facilitator's timetables, computed from the notebooks' own minutes.

``docs/facilitator.md`` holds a pair of marks for each plan of ``grader/workshops.toml``; what
stands between them is written by ``course release``, and compared by ``course release --check``.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from datetime import datetime, timedelta

from grader import registry
from grader.paths import ROOT

GUIDE = ROOT / "docs" / "facilitator.md"
PLANS = ROOT / "grader" / "workshops.toml"
BLOCK = re.compile(r"(<!-- timetable: (?P<name>[^>]+?) -->\n)(?P<body>.*?)(<!-- end -->)", re.S)


@dataclass(frozen=True)
class Plan:
    name: str
    start: str  # "HH:MM"
    before: str
    lines: tuple[tuple[str, int], ...]  # (what, minutes)

    @property
    def minutes(self) -> int:
        return sum(minutes for _, minutes in self.lines)


def plans() -> dict[str, Plan]:
    """Every plan by name. A notebook's line has its number, its title and its minutes."""
    numbered = {f"{i.number:02d}": i for i in registry.incidents().values()}
    found = {}
    for plan in tomllib.loads(PLANS.read_text(encoding="utf-8"))["plan"]:
        lines = []
        for line in plan["lines"]:
            if "notebook" in line:
                incident = numbered[line["notebook"]]
                lines.append((f"**{line['notebook']}** {incident.title}", incident.minutes))
            else:
                lines.append((line["what"], line["minutes"]))
        found[plan["name"]] = Plan(plan["name"], plan["start"], plan["before"], tuple(lines))
    return found


def as_markdown(plan: Plan) -> str:
    """A table with clock times, and the sum under it."""
    clock = datetime.strptime(plan.start, "%H:%M")
    rows = [f"Before: {plan.before}", "", "| from | minutes | |", "|---|---|---|"]
    for what, minutes in plan.lines:
        rows.append(f"| {clock:%H:%M} | {minutes} | {what} |")
        clock += timedelta(minutes=minutes)
    hours, rest = divmod(plan.minutes, 60)
    spent = f"{hours} h {rest} min" if rest else f"{hours} h"
    return "\n".join([*rows, "", f"Ends at {clock:%H:%M}, after {spent}.", ""])


def fill(text: str) -> str:
    """``text`` with every timetable as it is now. Raises KeyError for a plan that is not there."""
    known = plans()
    return BLOCK.sub(lambda m: m[1] + as_markdown(known[m["name"]]) + m[4], text)
