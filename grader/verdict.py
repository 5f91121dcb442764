"""What a check decided, and how it reads."""

from __future__ import annotations

import html
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Status(StrEnum):
    PASSED = "passed"
    WRONG = "wrong"
    NOT_IMPLEMENTED = "not implemented"
    TIMED_OUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"
    GRADER_FAULT = "grader fault"


MARKS = {Status.PASSED: "✓", Status.NOT_IMPLEMENTED: "·", Status.GRADER_FAULT: "!"}


@dataclass(frozen=True)
class Verdict:
    """One check's decision. Only ``passed`` earns points; a grader fault is nobody's zero."""

    check: str
    status: Status
    points: float
    max_points: float
    message: str
    hint: str | None
    seed: int
    seconds: float

    @property
    def mark(self) -> str:
        return MARKS.get(self.status, "✗")

    @property
    def headline(self) -> str:
        score = f"{self.points:g}/{self.max_points:g}" if self.max_points else "no points"
        status = "" if self.status in (Status.PASSED, Status.WRONG) else f"   {self.status}"
        return f"{self.mark} {self.check}   {score}{status}"

    @property
    def hint_line(self) -> str:
        return f"hint: course hint {self.hint}" if self.hint else ""

    def as_json(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "status": str(self.status),
            "points": self.points,
            "max_points": self.max_points,
            "message": self.message,
            "hint": self.hint,
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Verdict:
        return cls(**{**data, "status": Status(data["status"])})

    def as_text(self) -> str:
        lines = [self.headline, *("  " + line for line in self.message.splitlines())]
        if self.hint_line:
            lines.append("  " + self.hint_line)
        return "\n".join(lines)

    def as_html(self) -> str:
        """Readable without colour: the mark and the words say it; the border only repeats it.

        Text and background are the notebook's own, so that light and dark themes both work; the
        borders have a contrast of 3 or more against either.
        """
        colour = {"✓": "#009E73", "✗": "#D55E00"}.get(self.mark, "#808080")
        headline = html.escape(self.headline)
        body = html.escape(self.message)
        hint = ""
        if self.hint:
            code = html.escape(self.hint)
            hint = f'<div>Stuck? Run <code>hint("{code}")</code>, once for each step of help.</div>'
        return (
            f'<div style="border-left:4px solid {colour};padding:4px 12px;margin:2px 0">'
            f'<div><strong style="white-space:pre">{headline}</strong></div>'
            f'<div style="white-space:pre-wrap">{body}</div>{hint}</div>'
        )
