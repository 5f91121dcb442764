"""``course report`` on a store that is made up here, by the store's own module."""

from __future__ import annotations

import csv
import html
import random
import re
import subprocess
from html.parser import HTMLParser

import pytest

from grader import registry
from grader.classroom.store import Record, Store
from grader.report import collect, lms, page
from grader.verdict import Status
from tests.conftest import COURSE, need

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=HYPERLINK(A1)",
    "\u202egnp.exe",
    "&lt;b&gt;",
    "a" * 200,
]
CODE = "lr_reset.momentum.optimizer_empty"


def entry(check, status=Status.PASSED, hint=None, message="", seconds=0.5, own="own"):
    points = check.points if status is Status.PASSED else 0.0
    return {
        "check": check.id,
        "status": str(status),
        "points": points,
        "max_points": check.points,
        "message": message,
        "hint": hint,
        "seed": 1,
        "seconds": seconds,
        "with": own,
    }


def put(store, student, incident="lr_reset", statuses=None, **fields):
    """A record; ``statuses`` gives a check's local name another status than passed."""
    found = registry.incidents()[incident]
    verdicts = []
    for check in found.checks:
        given = (statuses or {}).get(check.id.split(".")[1], Status.PASSED)
        if given is not None:
            hint = CODE if given is Status.WRONG and check.id == "lr_reset.momentum" else None
            verdicts.append(entry(check, given, hint, fields.get("message", "")))
    fields.pop("message", None)
    fields = {"digest": "d", "seed": 1, "verdicts": verdicts, "seconds": 3.0, **fields}
    store.put(Record(student=student, notebook=found.notebook, incident=incident, **fields))


def fill(folder, students, seed=0):
    """A class of many, for looking at; every kind of verdict occurs."""
    draw = random.Random(seed)
    store = Store(folder)
    for number in range(students):
        skill = draw.random()
        for incident in registry.incidents().values():
            verdicts = []
            for check in incident.checks:
                codes = [f"{check.id}.{cause}" for cause in incident.misconceptions]
                status = Status.PASSED
                if draw.random() > skill:
                    status = draw.choice([*Status][1:6] + [Status.WRONG] * 6)
                hint = draw.choice(codes) if status is Status.WRONG and codes else None
                own = draw.choice(["own"] * 9 + ["reference"])
                verdicts.append(entry(check, status, hint, seconds=draw.expovariate(2), own=own))
            bad = draw.random() < 0.02
            store.put(
                Record(
                    student=f"student-{number:04}",
                    notebook=incident.notebook,
                    incident=incident.name,
                    digest="d",
                    seed=1,
                    seconds=sum(v["seconds"] for v in verdicts),
                    verdicts=[] if bad else verdicts,
                    ungradable="there is no savepoint/ in it" if bad else None,
                )
            )
    (folder / "nbgrader_config.py").write_text("")
    return store


def report(folder, *options):
    return subprocess.run(
        [*COURSE, "report", *options], cwd=folder, capture_output=True, text=True, timeout=200
    )


class Reader(HTMLParser):
    """What a browser would take the page to be: its tags, and the tables' texts."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.tables, self.attributes = [], [], []
        self._cell = None
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attr) for attr in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.tables[-1][-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data

    def map(self, student):
        """The heat map's row of a student."""
        return next(row for table in self.tables for row in table if row[0] == student and row[3:])


@pytest.fixture
def store(tmp_path):
    (tmp_path / "nbgrader_config.py").write_text("")
    return Store(tmp_path)


def test_the_heat_map_says_each_status_by_a_character(store):
    statuses = {
        "rng": Status.WRONG,
        "weights": Status.NOT_IMPLEMENTED,
        "learning_rate": Status.TIMED_OUT,
        "momentum": Status.OUT_OF_MEMORY,
        "adam_moments": Status.CRASHED,
        "same_bits": None,
    }
    put(store, "ada", statuses=statuses, open={"lr_reset.same_bits": "the server died"})
    put(store, "bob")
    of = collect.collect(store)
    row = {r.student: r for r in of.chapters[0].rows}["ada"]
    by_check = dict(zip([c.check.id for c in of.chapters[0].columns], row.marks, strict=True))
    local = {name.split(".")[1]: mark for name, mark in by_check.items()}
    assert [local[name] for name in statuses] == ["✗", "·", "T", "M", "C", "?"]
    shown = Reader(page.render(of, rows=10, title="cs")).map("ada")
    assert shown[1:-1] == list(row.marks)
    # What is not decided counts neither way.
    column = next(c for c in of.columns if c.check.id == "lr_reset.same_bits")
    assert (column.passed, column.decided) == (1, 1)


def test_hardest_checks_and_commonest_misconceptions(store):
    for number in range(4):
        put(store, f"s{number}", statuses={"momentum": Status.WRONG} if number < 3 else {})
    of = collect.collect(store)
    assert of.misconceptions == [(CODE, 3)]
    text = page.render(of, rows=10, title="cs")
    tables = Reader(text).tables
    assert tables[1][1][:1] + tables[1][1][2:4] == ["lr_reset.momentum", "1 of 4", "25 %"]
    assert tables[1][1][4] == "3 wrong" and len(tables[1]) == 2
    sentence = registry.incidents()["lr_reset"].misconceptions["optimizer_empty"]
    assert [CODE, sentence] == tables[2][1][:2] and tables[2][1][3] == "3"


def test_reference_in_the_place_of_an_earlier_module_is_told_apart(store):
    incident = registry.incidents()["off_by_one"]
    verdicts = [entry(c, own="reference") for c in incident.checks]
    put(store, "ada", "off_by_one", verdicts=verdicts)
    of = collect.collect(store)
    assert set(of.chapters[0].rows[0].marks) == {"R"}
    assert all(column.rate == 1 for column in of.columns)


def test_what_could_not_be_graded_is_no_zero(store):
    put(store, "ada", verdicts=[], ungradable="there is no savepoint/ in it")
    put(store, "bob", statuses={"rng": None}, open={"lr_reset.rng": "a grader fault"})
    put(store, "cy", notes=["x.py is a symbolic link: not followed"])
    of = collect.collect(store)
    text = page.render(of, rows=10, title="cs")
    for said in ("there is no savepoint/ in it", "a grader fault", "x.py is a symbolic link"):
        assert said in text
    rows = list(csv.DictReader(lms.render(of.chapters[0], {}).splitlines()))
    assert [row["points"] for row in rows] == ["", "", "16"]
    assert {row["max_points"] for row in rows} == {"16"}
    # With a gradebook its marks count, those by hand included; the undecided stay empty.
    marks = {"ada": (0.0, 20.0), "bob": (3.0, 20.0), "cy": (19.0, 20.0)}
    rows = list(csv.DictReader(lms.render(of.chapters[0], marks).splitlines()))
    assert [(row["points"], row["max_points"]) for row in rows] == [
        ("", "20"),
        ("", "20"),
        ("19", "20"),
    ]


@pytest.mark.parametrize("name", HOSTILE, ids=lambda name: name[:12])
def test_nothing_that_a_student_controls_becomes_markup(store, name):
    """Ids, reasons, notes and messages. A directory's name holds no slash: these stand for ids."""
    hostile = name + "</td></table><script src=//x></script>\x1b[31m\x00"
    put(store, "plain", statuses={"momentum": Status.WRONG}, message=hostile)
    put(store, "odd", notes=[hostile], verdicts=[], ungradable=hostile)
    put(store, "half", statuses={"rng": None}, open={"lr_reset.rng": hostile})
    of = collect.collect(store)
    of.chapters[0].rows[0].student = of.troubles[0].student = hostile
    of.slowest[0] = (1.0, hostile, hostile)
    text = page.render(of, rows=10, title=hostile)
    found = Reader(text)
    calm = Reader(page.render(collect.collect(store), rows=10, title="calm"))
    assert found.tags == calm.tags  # the same page, in other words
    assert not {"script", "img", "b", "a", "link", "iframe"} & set(found.tags)
    assert not [a for a in found.attributes if a[1].startswith("on") or a[1] in ("src", "href")]
    assert not re.search("[\x00\x1b\u202e]", text)
    assert html.escape(name.replace("\u202e", "\ufffd"), quote=True) in text


def test_a_hostile_directory_name_gets_through_whole(store):
    for name in HOSTILE:
        put(store, name.replace("/", "_"))
    run = report(store.folder.parent)
    assert run.returncode == 0, run.stderr
    folder = store.folder.parent / "report"
    assert "<script" not in (folder / "index.html").read_text()
    with (folder / "01_lr_reset.csv").open() as file:
        ids = {row["student_id"] for row in csv.DictReader(file)}
    assert "'=HYPERLINK(A1)" in ids and "\u202egnp.exe" in ids and "a" * 200 in ids


def test_one_self_contained_page_with_table_semantics(tmp_path):
    fill(tmp_path, 30)
    run = report(tmp_path, "--out", "out", "--rows", "20")
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "out" / "index.html").read_text()
    found = Reader(text)
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert "http:" not in text and "https:" not in text and "url(" not in text
    assert found.tags.count("h1") == 1
    assert found.tags.count("caption") == found.tags.count("table") == len(found.tables)
    scopes = [a for a in found.attributes if a[0] == "th"]
    assert sum(a[1] == "scope" for a in scopes) == found.tags.count("th")
    assert "20 of 30 students: those with the fewest points" in text
    made = {path.name for path in (tmp_path / "out").iterdir()}
    # Practice has no mark to import.
    graded = [i for i in registry.incidents().values() if any(c.points for c in i.checks)]
    assert made == {"index.html"} | {f"{i.notebook}.csv" for i in graded}
    for name in made - {"index.html"}:
        with (tmp_path / "out" / name).open() as file:
            assert len(list(csv.DictReader(file))) == 30  # everybody, shown or not


@pytest.mark.slow
def test_a_class_of_three_thousand_stays_a_page(tmp_path):
    of = collect.collect(fill(tmp_path, 3000))
    text = page.render(of, rows=500, title="large")
    assert len(text) < 4e6
    assert len(lms.render(of.chapters[1], {}).splitlines()) == 3001


def test_where_there_is_nothing_to_report_it_says_what_to_do(tmp_path):
    run = report(tmp_path)
    assert run.returncode == 2 and "is not a class" in run.stderr
    (tmp_path / "nbgrader_config.py").write_text("")
    run = report(tmp_path)
    assert run.returncode == 2 and "course grade" in run.stderr
    assert not (tmp_path / "report").exists()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_in_a_browser(tmp_path, width):
    chromium = need("chromium")
    from playwright.sync_api import sync_playwright

    fill(tmp_path, 40)
    assert report(tmp_path).returncode == 0
    asked = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": width, "height": 900})
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto((tmp_path / "report" / "index.html").as_uri())
        wide = shown.evaluate("document.documentElement.scrollWidth")
        first = shown.locator("table.map tbody th").first
        inside = shown.locator(".tall").first
        inside.evaluate("box => { box.scrollLeft = 300; box.scrollTop = 300 }")
        left = first.evaluate("cell => cell.getBoundingClientRect().left")
        edge = inside.evaluate("box => box.getBoundingClientRect().left")
        browser.close()
    assert wide <= width  # tables scroll, the page does not
    assert abs(left - edge) < 3  # names stay in view
    assert len(asked) == 1  # the page itself, and nothing else
