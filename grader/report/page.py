"""The page: one HTML file, no script, nothing fetched. What a student controls is escaped.

A cell of the heat map says its status by a letter or a symbol; the colour repeats it.
"""

from __future__ import annotations

import html
import time
import unicodedata
from collections.abc import Iterable, Sequence

from grader.report import collect
from grader.report.collect import Chapter, Class, Column, Row
from grader.report.style import CSS

CLASSES = {"✓": "p", "R": "p", "✗": "w", "·": "n", "T": "t", "M": "t", "C": "t", "?": "o"}
HARDEST = 15
COMMONEST = 20
TROUBLES = 500


def render(of: Class, *, rows: int, title: str) -> str:
    """The page as text. At most ``rows`` students a heat map: those with the fewest points."""
    parts = [
        _overview(of),
        _hardest(of.columns),
        _misconceptions(of),
        *_maps(of.chapters, rows),
        _times(of),
        _troubles(of),
    ]
    made = time.strftime("%Y-%m-%d %H:%M")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Should an escape ever be forgotten: nothing runs, and nothing is fetched.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{text(title)}: Bit for Bit</title>\n<style>{CSS}</style></head>\n<body><main>\n"
        f"<h1>{text(title)}</h1>\n<p>Bit for Bit, as graded until {made}. Points here are those of "
        "the checks; the written root causes are marked in nbgrader.</p>\n"
        + "\n".join(parts)
        + "\n</main></body></html>\n"
    )


def text(value: object) -> str:
    """Escaped; characters that move or hide others (controls, bidi marks) are made visible."""
    shown = "".join(
        "\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co") else c
        for c in str(value)
    )
    return html.escape(shown, quote=True)


def code(name: str) -> str:
    """A check's id or a hint's code; a narrow window breaks it after a dot."""
    return f"<code>{text(name).replace('.', '.<wbr>')}</code>"


def count(number: int, what: str) -> str:
    """ "1 student", "2 students"."""
    return f"{number} {what}{'s' if number != 1 else ''}"


def table(
    caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = ""
) -> str:
    """A table of ready HTML; the first cell of a row is its header."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(map(_cell, rest))}</tr>\n'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0">'
        f'<table class="{kind}"><caption>{caption}</caption><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def _cell(content: str) -> str:
    # Numbers and short words stay on one line; sentences get room.
    return f"<td{' class=short' if len(content) < 24 or '<span' in content else ''}>{content}</td>"


def _percent(part: float, whole: float) -> str:
    share = round(100 * part / whole) if whole else 0
    # The bar repeats the number; it is drawn by the background, and says nothing alone.
    return f'<span class="bar" style="--share:{share}%">{share} %</span>'


def _overview(of: Class) -> str:
    rows = []
    for chapter in of.chapters:
        graded = chapter.graded
        points = [row.points for row in graded]
        full = sum(p == chapter.max_points for p in points) if chapter.max_points else 0
        rows.append(
            [
                text(chapter.incident.notebook),
                str(len(chapter.rows)),
                f"{collect.middle(points):g} of {chapter.max_points:g}"
                if points and chapter.max_points
                else "–",
                str(full) if chapter.max_points else "–",
                str(len(chapter.rows) - len(graded)),
                str(sum(row.open > 0 for row in graded)),
            ]
        )
    header = ["notebook", "students", "points, median", "full points", "ungradable", "undecided"]
    said = f"{count(of.students, 'student')}, {count(len(of.chapters), 'notebook')}."
    return f"<h2>Overview</h2><p>{said}</p>{table('Each notebook over the class', header, rows)}"


def _hardest(columns: list[Column]) -> str:
    tried = [c for c in columns if c.decided and c.check.kind in ("core", "practice")]
    hardest = sorted((c for c in tried if c.rate < 1), key=lambda c: (c.rate, c.check.id))[:HARDEST]
    if not hardest:
        return "<h2>Hardest checks</h2><p>Everybody passes every check that was decided.</p>"
    rows = [
        [
            code(c.check.id),
            text(c.check.title),
            f"{c.passed} of {c.decided}",
            _percent(c.passed, c.decided),
            _otherwise(c),
        ]
        for c in hardest
    ]
    header = ["check", "what must hold", "passed", "share", "the others"]
    return "<h2>Hardest checks</h2>" + table(
        "Checks with the smallest share passed", header, rows, "says"
    )


def _otherwise(column: Column) -> str:
    """What came in place of a pass, the commonest first."""
    others = [(n, m) for m, n in column.marks.items() if m in CLASSES and m not in collect.PASSES]
    return ", ".join(f"{n} {collect.MEANINGS[m].split(';')[0]}" for n, m in sorted(others)[::-1])


def _misconceptions(of: Class) -> str:
    head = "<h2>Commonest misconceptions</h2>"
    if not of.misconceptions:
        return head + "<p>No wrong verdict named one.</p>"
    rows = []
    for hint, students in of.misconceptions[:COMMONEST]:
        check, sentence = collect.sentence(hint)
        rows.append([code(hint), text(sentence), text(check.title), str(students)])
    header = ["hint code", "what the message says", "check", "students"]
    more = len(of.misconceptions) - len(rows)
    rest = f"<p>{more} more were met by fewer.</p>" if more > 0 else ""
    return head + table("Students whose verdict named it", header, rows, "says") + rest


def _maps(chapters: list[Chapter], rows: int) -> list[str]:
    legend = " ".join(
        f'<li><span class="key {CLASSES[mark]}">{mark}</span> {meaning}</li>'
        for mark, meaning in collect.MEANINGS.items()
    )
    said = '<h2>Student by check</h2><ul class="legend">' + legend + "</ul>"
    first = next((c for c in chapters if c.max_points), chapters[0])
    return [said, *(_map(c, rows, opened=c is first) for c in chapters)]


def _map(chapter: Chapter, limit: int, *, opened: bool) -> str:
    shown: list[Row] = chapter.rows
    said = f"{count(len(shown), 'student')}, by name."
    if len(shown) > limit:
        shown = sorted(shown, key=lambda row: (row.points, row.student))[:limit]
        said = (
            f"{limit} of {len(chapter.rows)} students: those with the fewest points, fewest first. "
            f"All are in {chapter.incident.notebook}.csv."
        )
    names = "".join(
        f'<th scope="col" title="{text(c.check.title)}"><span>{text(c.check.id.split(".")[1])}'
        "</span></th>"
        for c in chapter.columns
    )
    rates = "".join(
        f"<td>{round(100 * c.rate)}</td>" if c.decided else "<td>–</td>" for c in chapter.columns
    )
    width = len(chapter.columns)
    body = "".join(_map_row(row, width) for row in shown)
    notebook = text(chapter.incident.notebook)
    return (
        f"<details{' open' if opened else ''}><summary>{notebook}: "
        f"{text(chapter.incident.title)}</summary><p>{text(said)}</p>"
        f'<div class="scroll tall" role="region" aria-label="{notebook}" tabindex="0">'
        f'<table class="map"><caption>{notebook}: students and checks</caption>'
        f'<thead><tr><th scope="col">student</th>{names}<th scope="col">points</th></tr>'
        f'<tr class="rates"><th scope="row">% passed</th>{rates}<td></td></tr></thead>\n'
        f"<tbody>{body}</tbody></table></div></details>"
    )


def _map_row(row: Row, width: int) -> str:
    name = f'<th scope="row" title="{text(row.student)}">{text(row.student)}</th>'
    if row.ungradable:
        return (
            f'<tr>{name}<td class="o" colspan="{width}">ungradable, see below</td><td>–</td></tr>\n'
        )
    cells = "".join(f'<td class="{CLASSES.get(m, "x")}">{m}</td>' for m in row.marks)
    return f"<tr>{name}{cells}<td>{row.points:g}</td></tr>\n"


def _times(of: Class) -> str:
    columns = [c for c in of.columns if c.seconds]
    columns.sort(key=lambda c: -collect.high(c.seconds))
    rows = [
        [
            code(c.check.id),
            f"{collect.middle(c.seconds):.2f}",
            f"{collect.high(c.seconds):.2f}",
            f"{max(c.seconds):.2f}",
        ]
        for c in columns[:HARDEST]
    ]
    header = ["check", "median, s", "95 in 100 within, s", "longest, s"]
    slow = [
        [text(student), text(notebook), f"{seconds:.1f}"]
        for seconds, student, notebook in of.slowest
    ]
    notebooks = [
        [
            text(c.incident.notebook),
            f"{collect.middle(c.seconds):.1f}",
            f"{collect.high(c.seconds):.1f}",
            f"{sum(c.seconds) / 60:.1f}",
        ]
        for c in of.chapters
    ]
    return (
        "<h2>Run times</h2>"
        + table(
            "Each notebook's checks, a submission",
            ["notebook", "median, s", "95 in 100 within, s", "all together, min"],
            notebooks,
        )
        + table("The checks that take longest", header, rows)
        + table("The submissions that took longest", ["student", "notebook", "seconds"], slow)
    )


def _troubles(of: Class) -> str:
    parts = ["<h2>Could not be graded</h2>"]
    if of.troubles:
        rows = [
            [text(t.student), text(t.notebook), text(t.what or "all of it"), text(t.why[:600])]
            for t in of.troubles[:TROUBLES]
        ]
        parts.append(
            "<p>None of these is recorded as a 0. Where a student is in the gradebook "
            "nbgrader asks for a mark by hand; else mend what is wrong and run "
            "<code>course grade</code> again.</p>"
        )
        header = ["student", "notebook", "what", "why"]
        parts.append(table("Ungradable and undecided, with the reason", header, rows, "prose"))
        if len(of.troubles) > TROUBLES:
            parts.append(f"<p>{len(of.troubles) - TROUBLES} more are in verdicts/.</p>")
    else:
        parts.append("<p>Nothing: every check of every submission was decided.</p>")
    if of.notes:
        rows = [[text(t.student), text(t.notebook), text(t.why[:600])] for t in of.notes[:TROUBLES]]
        parts.append("<h3>Remarks about what was handed in</h3>")
        parts.append(table("Remarks", ["student", "notebook", "remark"], rows, "prose"))
    return "".join(parts)
