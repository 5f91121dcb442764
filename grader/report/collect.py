"""From the store's records to what the page shows. One record at a time is in memory whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from statistics import median

from grader import registry
from grader.classroom.store import Record, Store
from grader.registry import Check, Incident
from grader.verdict import Status

# What a cell of the heat map says, without colour.
MARKS = {
    Status.PASSED: "✓",
    Status.WRONG: "✗",
    Status.NOT_IMPLEMENTED: "·",
    Status.TIMED_OUT: "T",
    Status.OUT_OF_MEMORY: "M",
    Status.CRASHED: "C",
}
STAND_IN = "R"  # passed with the reference in the place of earlier modules
OPEN = "?"  # not decided: waits for a mark by hand
NONE = " "  # ungradable, or this check did not exist when it was graded
MEANINGS = {
    "✓": "passed",
    STAND_IN: "passed, with the reference in the place of earlier modules",
    "✗": "wrong",
    "·": "not implemented",
    "T": "timed out",
    "M": "out of memory",
    "C": "crashed",
    OPEN: "not decided; waits for a mark by hand",
}
PASSES = ("✓", STAND_IN)
SLOWEST = 10


@dataclass
class Row:
    """One student in one notebook."""

    student: str
    marks: str  # one character for each check of the notebook
    points: float
    ungradable: bool
    open: int


@dataclass
class Column:
    """One check over the class."""

    check: Check
    marks: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)

    @property
    def decided(self) -> int:
        return sum(n for mark, n in self.marks.items() if mark not in (OPEN, NONE))

    @property
    def passed(self) -> int:
        return sum(self.marks[mark] for mark in PASSES)

    @property
    def rate(self) -> float:
        """The share that passed, of those that were decided."""
        return self.passed / self.decided if self.decided else 0.0


@dataclass
class Chapter:
    """One notebook over the class."""

    incident: Incident
    rows: list[Row] = field(default_factory=list)
    columns: list[Column] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def graded(self) -> list[Row]:
        return [row for row in self.rows if not row.ungradable]

    @property
    def max_points(self) -> float:
        return sum(column.check.points for column in self.columns)


@dataclass
class Trouble:
    """Something that could not be graded, or a remark about what was handed in."""

    student: str
    notebook: str
    what: str  # "" for the whole notebook, a check's id, or "note"
    why: str


@dataclass
class Class:
    """All that the page shows."""

    chapters: list[Chapter]
    students: int
    misconceptions: list[tuple[str, int]]  # (hint code, students), the commonest first
    troubles: list[Trouble]
    notes: list[Trouble]
    slowest: list[tuple[float, str, str]]  # (seconds, student, notebook)

    @property
    def columns(self) -> list[Column]:
        return [column for chapter in self.chapters for column in chapter.columns]


def collect(store: Store) -> Class:
    """Read every record once."""
    chapters: dict[str, Chapter] = {}
    met: dict[str, set[str]] = defaultdict(set)  # hint code: students
    troubles: list[Trouble] = []
    notes: list[Trouble] = []
    slowest: list[tuple[float, str, str]] = []
    students = set()
    for record in store.records():
        incident = registry.incidents().get(record.incident)
        if incident is None:  # graded by another edition of the course
            continue
        students.add(record.student)
        chapter = chapters.setdefault(incident.name, _chapter(incident))
        chapter.rows.append(_row(record, chapter))
        for entry in record.verdicts:
            if entry["status"] == Status.WRONG and entry.get("hint"):
                met[entry["hint"]].add(record.student)
        if record.ungradable is None:
            chapter.seconds.append(record.seconds)
            slowest = sorted([*slowest, (record.seconds, record.student, record.notebook)])
            slowest = slowest[-SLOWEST:]
        else:
            troubles.append(Trouble(record.student, record.notebook, "", record.ungradable))
        for check_id, why in record.open.items():
            troubles.append(Trouble(record.student, record.notebook, check_id, why))
        notes += [Trouble(record.student, record.notebook, "note", note) for note in record.notes]
    common = Counter({code: len(who) for code, who in met.items() if _sentence(code)})
    return Class(
        chapters=sorted(chapters.values(), key=lambda c: c.incident.number),
        students=len(students),
        misconceptions=sorted(common.items(), key=lambda item: (-item[1], item[0])),
        troubles=troubles,
        notes=notes,
        slowest=slowest[::-1],
    )


def _chapter(incident: Incident) -> Chapter:
    return Chapter(incident, columns=[Column(check) for check in incident.checks])


def _row(record: Record, chapter: Chapter) -> Row:
    entries = {entry["check"]: entry for entry in record.verdicts}
    marks = ""
    for column in chapter.columns:
        entry = entries.get(column.check.id)
        mark = _mark(entry, column.check.id in record.open)
        marks += mark
        column.marks[mark] += 1
        if entry is not None and column.check.kind != "prediction":
            column.seconds.append(entry["seconds"])
    ungradable = record.ungradable is not None
    return Row(record.student, marks, record.points, ungradable, len(record.open))


def _mark(entry: dict | None, is_open: bool) -> str:
    if entry is None:
        return OPEN if is_open else NONE
    if entry["status"] == Status.PASSED and entry.get("with") == "reference":
        return STAND_IN
    return MARKS.get(entry["status"], OPEN)


def _sentence(code: str) -> str:
    """The misconception that a hint code names; "" for a code without one."""
    try:
        return registry.find_hint(code)[1]
    except registry.UnknownName:
        return ""


def sentence(code: str) -> tuple[Check, str]:
    """(the check, the misconception's sentence) for a code that ``collect`` kept."""
    return registry.find_hint(code)


def middle(values: list[float]) -> float:
    return median(values) if values else 0.0


def high(values: list[float]) -> float:
    """The value that 95 in 100 do not exceed."""
    return sorted(values)[max(0, -(-95 * len(values) // 100) - 1)] if values else 0.0
