"""``course watch`` as a person has it: a real terminal (a pty), real key presses, real saves."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import time

import pytest

from grader.paths import NOTEBOOKS, SOLUTIONS
from tests.conftest import COURSE

pty = pytest.importorskip("pty")
pytestmark = pytest.mark.timeout(240)
WAIT = 90  # seconds for anything to appear, on a loaded machine


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments, cwd, columns=80, **env):
        pid, self.fd = pty.fork()
        if pid == 0:
            os.chdir(cwd)
            os.environ.update(COLUMNS=str(columns), LINES="40", TERM="xterm-256color", **env)
            os.execv(COURSE[0], [*COURSE, *map(str, arguments)])
        self.pid, self.seen, self.status = pid, "", None

    def read(self, seconds=0.1):
        ready, _, _ = select.select([self.fd], [], [], seconds)
        if ready:
            with contextlib.suppress(OSError):  # the other end is closed
                self.seen += os.read(self.fd, 65536).decode(errors="replace").replace("\r\n", "\n")
                return True
        return False

    def until(self, text, seconds=WAIT):
        """Wait for ``text``; return what came up to it, and forget it."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            assert time.monotonic() < deadline, f"no {text!r} in:\n{self.seen}"
            self.read()
        head, _, self.seen = self.seen.partition(text)
        return head + text

    def press(self, letter):
        os.write(self.fd, letter.encode())

    def ended(self, seconds=WAIT):
        """The exit status, once it has ended."""
        deadline = time.monotonic() + seconds
        while self.status is None and time.monotonic() < deadline:
            self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        assert self.status is not None, self.seen
        return self.status

    def close(self):
        if self.status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def mine(tmp_path):
    """A learner's fresh copy."""
    subprocess.run([*COURSE, "start", tmp_path / "mine"], check=True, timeout=120)
    return tmp_path / "mine"


@pytest.fixture
def terminal(mine):
    opened = []

    def open_(*arguments, **options):
        opened.append(Terminal(*arguments, cwd=mine, **options))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def reference(name):
    return (SOLUTIONS / "savepoint" / name).read_text()


def save(path, text):
    """As editors do: a new file, moved over the old one."""
    fresh = path.with_name(f".{path.name}.swp")
    fresh.write_text(text)
    fresh.replace(path)


def test_a_save_reruns_its_checks_and_shows_one_failing_at_a_time(mine, terminal):
    watch = terminal("watch", NO_COLOR="1")
    watch.until("h hint  l list  a all  r reset  q quit")
    module = mine / "savepoint" / "bits.py"

    save(module, reference("bits.py").replace("torch.uint8", "torch.int8").replace("!=", "=="))
    said = watch.until("0 of 1 checks pass.")
    assert "bits saved" in said and "✗ start_here.same_bits" in said

    watch.press("h")
    assert "Hint 1 of 3" in watch.until("Ask again")
    watch.press("l")
    watch.until("✗ start_here.same_bits   wrong")

    save(module, reference("bits.py"))
    watch.until("1 of 1 checks pass.")
    watch.until("course solution start_here.same_bits")
    watch.press("h")
    watch.until("No failing check is shown")

    watch.press("r")
    watch.until("y: yes")
    watch.press("n")
    watch.until("Nothing was changed.")
    assert module.read_text() == reference("bits.py")
    watch.press("r")
    watch.until("y: yes")
    watch.press("y")
    kept = re.search(r"is kept:\s+(\S+)", watch.until(".py\n") + watch.seen)
    watch.until("0 of 1 checks pass.")  # the reset is a change on disk like any other
    assert module.read_bytes() == (NOTEBOOKS / "savepoint" / "bits.py").read_bytes()
    assert kept
    copies = list((mine / ".course" / "kept").glob("bits-*.py"))
    assert [copy.read_text() for copy in copies] == [reference("bits.py")]

    watch.press("q")
    assert watch.ended() == 0
    assert "\x1b" not in watch.seen


def test_only_the_first_failing_check_of_several_is_shown(mine, terminal):
    watch = terminal("watch", NO_COLOR="1", columns=40)
    watch.until("q quit")
    save(
        mine / "savepoint" / "checkpoint.py",
        reference("checkpoint.py").replace("pos, has", "0, has"),
    )
    said = watch.until("checks pass.")
    assert len(re.findall("^✗", said, re.MULTILINE)) == 1, said
    assert "✗ lr_reset.rng" in said
    assert all(len(line) <= 40 for line in said.splitlines() if " " in line.strip()), said
    watch.press("q")
    assert watch.ended() == 0


def test_q_leaves_at_once_while_a_check_hangs_and_the_terminal_is_as_before(mine, terminal):
    import termios

    watch = terminal("watch")
    before = termios.tcgetattr(watch.fd)
    watch.until("q quit")
    save(mine / "savepoint" / "bits.py", "def same_bits(a, b):\n    while True: pass\n")
    watch.until("bits saved")
    watch.press("q")
    assert watch.ended(seconds=8) == 0  # the check itself would take ten
    assert termios.tcgetattr(watch.fd)[3] == before[3]


def test_without_a_terminal_there_are_no_keys_and_ctrl_c_ends_it(mine):
    process = subprocess.Popen(
        [*COURSE, "watch", "00"],
        cwd=mine,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    try:
        said = ""
        while "0 of 1 checks pass." not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        assert "No keys: stdin is not a terminal" in said and "\x1b" not in said
        assert "Not yet: 00_start_here, task 1" in said
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=WAIT)
        assert process.returncode == 130 and "Traceback" not in rest
    finally:
        process.kill()
        process.wait()


def test_an_unknown_name_is_a_usage_error(mine):
    run = subprocess.run([*COURSE, "watch", "nothing"], cwd=mine, capture_output=True, timeout=60)
    assert run.returncode == 2 and b"course check --list" in run.stderr
