"""Incident 06: a manager that is killed 200 times, at random, and what each kill leaves."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from grader.paths import SOLUTIONS

sys.path.insert(0, str(SOLUTIONS))
from savepoint.files import verify_file
from savepoint.storage import CheckpointManager

sys.path.remove(str(SOLUTIONS))

KILLS, KEEP_LAST, KEEP_EVERY = 200, 2, 10
NAME = re.compile(r"(step|best)-([0-9]+)\.pt")

# Goes on in a child a line: after ``saves`` saves, it dies at the ``moment``-th thing that it does
# to a file, or lives until it is killed (``moment`` 0). A child is forked from a warm process: the
# first step and the first save of a process cost seconds.
PROGRAM = f"""
import os, signal, sys, tempfile, torch
from savepoint.storage import CheckpointManager
torch.set_num_threads(1)

def say(line):
    os.write(1, (line + "\\n").encode())

def train(directory, saves=0, moment=0, forever=True):
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.AdamW(model.parameters())
    manager = CheckpointManager(directory, keep_last={KEEP_LAST}, keep_every={KEEP_EVERY})
    found = manager.load_latest(model=model, optimizer=optimizer)
    epoch = found["epoch"] + 1 if found else 1
    while True:
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, epoch)
        optimizer.step()
        if moment and not saves:
            left = [moment]
            def hook(event, _):
                if event == "open" or event.startswith("os."):
                    left[0] -= 1
                    if left[0] == 0:
                        os.kill(os.getpid(), signal.SIGKILL)
            sys.addaudithook(hook)
        if forever:
            say(f"saving {{epoch}}")
        manager.save(model=model, optimizer=optimizer, scheduler=None, epoch=epoch, loss=0.0,
                     metric=1 / epoch)
        if not forever:
            return
        say(f"saved {{epoch}}")
        saves, epoch = saves - 1, epoch + 1

with tempfile.TemporaryDirectory() as warm:
    train(warm, forever=False)
say("ready")
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        try:
            train(sys.argv[1], *map(int, line.split()))
        finally:
            os._exit(1)
    say(f"pid {{pid}}")
    _, status = os.waitpid(pid, 0)
    say(f"dead {{status}}")
"""


class Victim:
    """The process that is killed, again and again, and what it said."""

    def __init__(self, directory: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(SOLUTIONS), "OMP_NUM_THREADS": "1"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        self.saved = 0  # the highest number whose save has returned
        self.completed = 0  # saves of the present child
        self.seconds = 0.01  # that one save takes
        self.read("ready")

    def read(self, what: str = "") -> tuple[str, str]:
        """The next line, as word and number; or the next that begins with ``what``."""
        while True:
            line = self.server.stdout.readline()
            assert line, "the process that forks is gone"
            word, _, number = line.strip().partition(" ")
            if word == "saved":
                self.saved, self.completed = int(number), self.completed + 1
            if what in ("", word):
                return word, number

    def kill(self, saves: int, moment: int, share: float) -> None:
        """Have a child save, then die: at that moment, or after a share of a save's time."""
        self.completed = 0
        self.server.stdin.write(f"{saves} {moment}\n")
        self.server.stdin.flush()
        pid = 0
        while moment == 0 and (pid == 0 or self.completed < saves):
            # Two processes speak, in either order.
            word, number = self.read()
            assert word != "dead", "it ended by itself"
            if word == "pid":
                pid = int(number)
            elif word == "saving":
                started = time.monotonic()
            elif word == "saved":
                self.seconds = time.monotonic() - started
        if moment == 0:
            time.sleep(share * self.seconds)
            os.kill(pid, 9)
        assert self.read("dead") == ("dead", "9"), "it ended by itself"


def found(directory: Path) -> tuple[list[int], list[int], list[str]]:
    """Numbers of full checkpoints but the periodic, of best files, and the names of all else."""
    names = [path.name for path in directory.iterdir()]
    matches = [match for name in names if (match := NAME.fullmatch(name))]
    full, best = (
        sorted(int(match[2]) for match in matches if match[1] == kind) for kind in ("step", "best")
    )
    others = [name for name in names if not NAME.fullmatch(name)]
    return [number for number in full if number % KEEP_EVERY], best, others


def require_sound(directory: Path, saved: int) -> None:
    """Every file with a checkpoint's name is whole, and the newest is not older than ``saved``."""
    for path in directory.iterdir():
        if NAME.fullmatch(path.name):
            verify_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is damaged
        manager = CheckpointManager(directory)
        last, best = manager.last(), manager.best()
    for path in (last, best):  # the metric falls: the newest is the best
        number = int(NAME.fullmatch(path.name)[2]) if path else 0
        assert number >= saved, f"save {saved} had returned, and {path} is the newest"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the process that is killed")
@pytest.mark.timeout(600)
def test_killed_200_times(tmp_path):
    """At every instant a loadable newest checkpoint; each kill leaves one file too many at most.

    What a killed save left is in the way of nobody and is gone after the next that completes; a
    second kill before that can add its own. (To delete before the new file is safe would lose
    files when that one fails.)
    """
    directory = tmp_path / "run"
    directory.mkdir()
    victim, rng = Victim(directory), random.Random(0)
    during, surplus = 0, 0
    try:
        for number in range(KILLS):
            full_before, best_before, _ = found(directory)
            # Half of them by the clock, half at a file event: opened, listed, renamed, removed.
            moment = rng.randint(1, 40) if number % 2 else 0
            victim.kill(rng.randint(0, 2), moment, rng.uniform(0, 1.1))
            full, best, others = found(directory)
            require_sound(directory, victim.saved)
            room = {"full": max(KEEP_LAST, len(full_before)), "best": max(1, len(best_before))}
            if victim.completed:
                room = {"full": KEEP_LAST, "best": 1}
            temporary = {kind: [name for name in others if kind in name] for kind in room}
            assert sum(map(len, temporary.values())) == len(others), others
            for kind, there in (("full", full), ("best", best)):
                assert len(there) + len(temporary[kind]) <= room[kind] + 1, (there, others)
            during += bool(others)
            surplus += len(full) > KEEP_LAST or len(best) > 1
        saved = victim.saved
    finally:
        victim.server.kill()
        victim.server.wait()
    # The kills met saves, and clean-ups.
    assert saved >= KILLS // 2 and during >= 10 and surplus >= 5, (saved, during, surplus)
    _one_save_clears_up(directory, saved)


def _one_save_clears_up(directory: Path, saved: int) -> None:
    import torch

    for leftover in ("savepoint-full.tmp", "savepoint-best.tmp", "savepoint-full.tmp.tmp"):
        (directory / leftover).write_bytes(b"half of a checkpoint")
    model = torch.nn.Linear(64, 64)
    parts = {"optimizer": torch.optim.AdamW(model.parameters()), "scheduler": None}
    manager = CheckpointManager(directory, keep_last=KEEP_LAST, keep_every=KEEP_EVERY)
    first = saved - saved % KEEP_EVERY + 1
    for number in (first + KEEP_EVERY, first + KEEP_EVERY + 1):
        manager.save(model=model, **parts, epoch=number, loss=0.0, metric=-number)
    assert found(directory) == ([number - 1, number], [number], [])
