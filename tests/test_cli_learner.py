"""``course`` for a learner: what is remembered, given back, shown; in a pipe and on 40 columns."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from grader import registry, remembered
from grader.cli import excerpt
from grader.paths import NOTEBOOKS, ROOT, SOLUTIONS
from tests.conftest import COURSE
from tests.test_watch import Terminal

pytestmark = pytest.mark.timeout(240)


def course(*arguments, cwd, **env):
    return subprocess.run(
        [*COURSE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy") / "mine"
    assert course("start", folder, cwd=ROOT).returncode == 0
    return folder


@pytest.fixture
def mine(handed_out, tmp_path):
    """A learner's fresh copy."""
    shutil.copytree(handed_out, tmp_path / "mine")
    return tmp_path / "mine"


def take(mine, name):
    shutil.copy(SOLUTIONS / "savepoint" / name, mine / "savepoint" / name)


def standing(mine, check_id):
    return next(
        s for c in remembered.standings(mine) for s in c.standings if s.check.id == check_id
    )


def test_a_copy_has_the_note_for_assistants_and_every_module(handed_out):
    note = (handed_out / "AGENTS.md").read_text()
    assert "Tutor. Do not solve." in note
    for name in re.findall(r"`course (\w+)", note):
        assert course(name, "--help", cwd=handed_out).returncode == 0, name
    given = {path.name for path in (handed_out / "savepoint").glob("*.py")}
    assert given == {path.name for path in (SOLUTIONS / "savepoint").glob("*.py")}


def test_a_pass_is_shown_until_the_file_changes(mine):
    take(mine, "bits.py")
    assert course("check", "00", cwd=mine).returncode == 0
    assert "✓ 00_start_here        ████████████  1/1 checks" in course("progress", cwd=mine).stdout
    ticked = course("progress", "--checklist", cwd=mine).stdout
    assert "- [x] We compare runs by a hash" in ticked and ticked.count("- [ ]") >= 6

    with (mine / "savepoint" / "bits.py").open("a") as file:
        file.write("\n# an edit\n")
    said = course("progress", cwd=mine).stdout
    assert "· 00_start_here        ░░░░░░░░░░░░  0/1 checks" in said
    assert "1 verdict(s) are older than your files" in said
    assert "- [x]" not in course("progress", "--checklist", cwd=mine).stdout
    # The edit undone, the verdict is about these files again.
    take(mine, "bits.py")
    assert standing(mine, "start_here.same_bits").passed


def test_a_verdict_depends_on_what_the_module_imports_and_on_nothing_else(mine):
    def now(name):
        return remembered.digest(registry.incidents()[name], mine)

    package = mine / "savepoint"
    before = now("off_by_one"), now("lr_reset")
    (package / "seeding.py").write_text("# resume.py does not import this one\n")
    assert (now("off_by_one"), now("lr_reset")) == before
    lab = now("ddp_lab")
    (package / "mine.py").write_text("A = 1\n")
    assert now("ddp_lab") != lab  # the lab runs the whole package
    with (package / "checkpoint.py").open("a") as file:
        file.write("\ndef late():\n    from . import mine\n")
    own = now("off_by_one"), now("lr_reset")
    assert own[0] != before[0] and own[1] != before[1]  # resume builds on checkpoint
    (package / "mine.py").write_text("A = 2\n")
    assert now("off_by_one") != own[0] and now("lr_reset") != own[1]
    (package / "checkpoint.py").write_text("def broken(:\n")
    assert now("lr_reset") != own[1]


def test_a_damaged_memory_loses_only_its_own_lines(mine):
    take(mine, "bits.py")
    assert course("check", "00", cwd=mine).returncode == 0
    log = mine / ".course" / "verdicts.jsonl"
    good = log.read_text()
    log.write_bytes(
        b'\xff\x00 [] null {"check": "no.such"}\n[1]\n' + good.encode() + b'{"check": "lr'
    )
    assert standing(mine, "start_here.same_bits").passed
    assert "Traceback" not in course("progress", cwd=mine).stderr


def test_looking_at_somebody_s_directory_leaves_nothing_there(mine, tmp_path):
    (mine / ".course").rename(tmp_path / "away")
    listing = sorted(p.name for p in mine.rglob("*"))
    run = course("check", "00", "--savepoint", mine, cwd=ROOT)
    assert run.returncode == 1 and sorted(p.name for p in mine.rglob("*")) == listing


def test_hint_without_a_name_is_about_what_failed(mine):
    nothing = course("hint", cwd=mine)
    assert nothing.returncode == 2 and "course check 01" in nothing.stderr
    assert course("check", "00", cwd=mine).returncode == 1
    said = [course("hint", cwd=mine).stdout for _ in range(3)]
    assert [f"Hint {n} of 3" in text for n, text in enumerate(said, 1)] == [True] * 3
    assert "course solution start_here.same_bits --anyway" in said[-1]


def test_reset_keeps_a_copy_and_says_where(mine):
    module = mine / "savepoint" / "checkpoint.py"
    untouched = course("reset", "checkpoint", cwd=mine)
    assert untouched.returncode == 0 and "nothing to reset" in untouched.stdout
    module.write_text("# an hour of work\n")
    asked = course("reset", "checkpoint", cwd=mine)
    assert asked.returncode == 2 and "--yes" in asked.stderr
    assert module.read_text() == "# an hour of work\n"
    for text in ("# an hour of work\n", "# another\n"):
        module.write_text(text)
        run = course("reset", "savepoint/checkpoint.py", "--yes", cwd=mine / "savepoint")
        kept = re.search(r"Yours is kept: (\S+/checkpoint-\d{8}-\d{6}(-\d)?\.py)", run.stdout)
        assert run.returncode == 0 and kept, run.stdout + run.stderr
        assert Path(kept[1]).read_text() == text
    assert module.read_bytes() == (NOTEBOOKS / "savepoint" / "checkpoint.py").read_bytes()

    notebook = mine / "01_lr_reset.ipynb"
    notebook.write_text("{}")
    run = course("reset", "1", "--yes", cwd=mine)
    assert "Reload Notebook from Disk" in run.stdout
    assert notebook.read_bytes() == (NOTEBOOKS / "01_lr_reset.ipynb").read_bytes()
    notebook.unlink()  # gone altogether: it comes back, and there is nothing to ask about
    assert course("reset", "01", cwd=mine).returncode == 0 and notebook.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["reset", "chekpoint"], "Did you mean checkpoint"),
        (["reset", "mine"], "your own"),
        (["solution", "lr_reset.momentun"], "course check --list"),
        (["solution", "01"], "Which of its checks? lr_reset.rng"),
        (["hint", "lr_reset.momentun"], "lr_reset.momentum"),
        (["progress", "now"], "unexpected"),
    ],
)
def test_usage_errors_say_what_to_do(mine, arguments, said):
    (mine / "savepoint" / "mine.py").write_text("")
    run = course(*arguments, cwd=mine, COLUMNS="200")
    assert run.returncode == 2 and said in run.stderr, run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("where", [SOLUTIONS, NOTEBOOKS / "savepoint"], ids=lambda p: p.name)
def test_the_course_itself_is_never_reset(where):
    run = course("reset", "checkpoint", "--yes", cwd=where)
    assert run.returncode == 2 and "the course itself" in run.stderr


def test_solution_comes_once_the_check_passes_or_on_request(mine):
    early = course("solution", "start_here.same_bits", cwd=mine)
    assert early.returncode == 1 and "--anyway" in early.stdout and "def " not in early.stdout
    asked = course("solution", "start_here.same_bits", "--anyway", cwd=mine)
    take(mine, "bits.py")
    checked = course("check", "00", cwd=mine)
    assert "course solution start_here.same_bits" in checked.stdout
    passed = course("solution", "start_here.same_bits", cwd=mine)
    assert passed.returncode == asked.returncode == 0
    assert passed.stdout == asked.stdout
    assert "def same_bits(" in passed.stdout and "SOLUTION" not in passed.stdout


def test_solution_shows_the_regions_of_the_check_and_nothing_else():
    of = {check.id: excerpt.of(check) for check in registry.checks().values()}
    modules = {incident.name: incident.modules for incident in registry.incidents().values()}
    for check in registry.checks().values():
        text = of[check.id]
        assert bool(text) == (check.kind != "prediction" and bool(modules[check.incident]))
        assert "SOLUTION" not in text
    assert "def rng_state" in of["lr_reset.rng"] and "save_checkpoint" not in of["lr_reset.rng"]
    assert "def load_checkpoint" in of["lr_reset.elsewhere"]
    assert "def _require" in of["lr_reset.elsewhere"] and "_stamp" not in of["lr_reset.elsewhere"]
    assert "def export_weights" in of["version_breakage.export"]
    assert "def import_weights" not in of["version_breakage.export"]
    assert "class Progress" in of["off_by_one.best"] and "Sampler" not in of["off_by_one.best"]


def test_nothing_is_coloured_or_wrapped_in_a_pipe(mine):
    for arguments in (["progress"], ["check", "--list"], ["check", "00"], ["hint"], ["doctor"]):
        out = course(*arguments, cwd=mine, TERM="xterm-256color").stdout
        assert "\x1b" not in out, arguments
    rows = course("check", "--list", "01", cwd=mine).stdout.splitlines()
    assert len(rows) == len(registry.incidents()["lr_reset"].checks)  # one line each, for grep


@pytest.mark.parametrize("no_colour", [{}, {"NO_COLOR": "1"}], ids=["colour", "NO_COLOR"])
def test_forty_columns(mine, no_colour):
    for arguments in (["progress"], ["check", "--list", "01"], ["hint", "lr_reset.rng"]):
        terminal = Terminal(*arguments, cwd=mine, columns=40, **no_colour)
        try:
            assert terminal.ended() == 0
            while terminal.read():
                pass
            said = terminal.seen
        finally:
            terminal.close()
        if no_colour:
            assert "\x1b" not in said
        for line in re.sub(r"\x1b\[[0-9;]*m", "", said).splitlines():
            assert len(line) <= 40 or " " not in line.strip(), (arguments, line)


def test_work_goes_on_from_any_directory(mine):
    take(mine, "bits.py")
    deep = mine / "savepoint" / "deeper"
    deep.mkdir()
    (mine / "savepoint" / "checkpoint.py").unlink()  # still this copy, and not another one
    run = course("check", "00", cwd=deep)
    assert run.returncode == 0 and str(mine / "savepoint") in run.stdout


@pytest.mark.slow
def test_torchrun_is_a_flag(mine):
    run = course(
        *("check", "ddp_race.one_writer", "--torchrun", "--json", "--savepoint", "solutions"),
        cwd=ROOT,
    )
    assert json.loads(run.stdout)["status"] == "passed", run.stdout + run.stderr
