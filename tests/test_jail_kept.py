"""Which jail the next submission meets: the same after plain ends, another after anything odd."""

from __future__ import annotations

import pytest

from grader import jail, registry
from grader.client import ForkServer
from grader.jail_runner import JailRunner
from grader.judge import judge
from grader.paths import SOLUTIONS
from grader.verdict import Status
from tests.conftest import need_jail
from tests.test_bad_input import package

CHECK = registry.checks()["lr_reset.momentum"]
PLAIN = {
    "right": None,
    "raises": "def save_checkpoint(path, **kw): raise ValueError('no')",
    "leaves files": """
def save_checkpoint(path, **kw):
    for place in ("/tmp/left", "/dev/shm/left"):
        open(place, "w").close()
    raise ValueError('left')
""",
}
ODD = {
    "leaves a process": """
import os, time
def save_checkpoint(path, **kw):
    if os.fork() == 0:
        os.setsid()
        time.sleep(100)
    raise ValueError('left')
""",
    "exits": "import os\ndef save_checkpoint(path, **kw): os._exit(3)",
    "never ends": "def save_checkpoint(path, **kw):\n    while True: pass",
}

LISTING = """
import os
def save_checkpoint(path, **kw):
    raise OSError(sorted(os.listdir("/dev/shm")))
"""


@pytest.fixture(scope="module")
def runners():
    need_jail()
    jailed, trusted = JailRunner(), ForkServer()
    yield jailed, trusted
    jailed.close()
    trusted.close()


@pytest.mark.parametrize("what", [*PLAIN, *ODD])
def test_a_jail_is_kept_only_after_plain_ends(what, runners, tmp_path, monkeypatch):
    monkeypatch.setattr("grader.client.SECONDS", 3.0)
    jailed, trusted = runners
    source = {**PLAIN, **ODD}[what]
    root = SOLUTIONS if source is None else package(tmp_path, source)
    before = jailed._server.process.pid
    verdict = judge(CHECK, root, jailed, trusted_runner=trusted, seed=1)
    assert (verdict.status is Status.PASSED) == (what == "right"), verdict.as_text()
    jailed.settle()
    assert (jailed._server.process.pid == before) == (what in PLAIN)
    (tmp_path / "next").mkdir()
    next_one = judge(CHECK, package(tmp_path / "next", LISTING), jailed, seed=1)
    assert "[]" in next_one.message, next_one.as_text()


def test_a_jail_that_cannot_start_is_said_at_once(monkeypatch):
    """Not waited for: once for every check, it would look like a grader that hangs."""
    need_jail()  # before: what it finds is remembered
    build = jail.build
    monkeypatch.setattr(jail, "build", lambda program: build(["/no/such/program"]))
    broken, trusted = JailRunner(), ForkServer()
    try:
        for _ in range(2):
            verdict = judge(CHECK, SOLUTIONS, broken, trusted_runner=trusted, seed=1)
            assert verdict.status is Status.GRADER_FAULT, verdict.as_text()
            assert "did not start" in verdict.message
        monkeypatch.undo()
        broken.settle()
        verdict = judge(CHECK, SOLUTIONS, broken, trusted_runner=trusted, seed=1)
        assert verdict.status is Status.PASSED, verdict.as_text()
    finally:
        broken.close()
        trusted.close()
