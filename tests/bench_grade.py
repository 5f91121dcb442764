"""`make bench-grade`: a class through stock `nbgrader autograde` and through `course grade`.

One class of notebook 01: stubs, right and wrong packages from the bank, no two alike. Both grade
the same 8 submissions in one run, and their marks are compared; then ours alone grades the first
10, 100 and 1,000. Where fewer than a hundred are a class, as many classes as hold the first
hundred are graded, one after the other: what is compared is the size, not who is in it.

A submission's cost is probing (seconds of a worker) and recording; starting comes once a run and
stands apart. Memory is the processes' proportional set size (PSS), summed over the whole tree,
the highest of samples two seconds apart. Never part of the tests.
"""

from __future__ import annotations

import argparse
import functools
import operator
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from nbgrader.api import Gradebook
from rich.console import Console
from rich.table import Table

from tests import banking
from tests.conftest import COURSE
from tests.test_classroom import BIN, NOTEBOOK, submit
from tests.test_grade import marks, new_class

STOCK = [str(BIN / "nbgrader"), "autograde", "bit_for_bit"]
SAME = 100  # submissions that every size is measured on
EVERY = 2.0  # seconds between two samples of memory, each of which costs some itself
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@dataclass(frozen=True)
class Run:
    """What grading ``classes`` of one size cost, all added up; ``peak`` is the highest of them."""

    who: str
    submissions: int  # in each class
    classes: int
    seconds: float  # by the clock
    cpu: float  # seconds of the processors, of all processes
    peak: int  # bytes
    said: str

    def __add__(self, other: Run) -> Run:
        return replace(
            self,
            classes=self.classes + other.classes,
            seconds=self.seconds + other.seconds,
            cpu=self.cpu + other.cpu,
            peak=max(self.peak, other.peak),
            said=self.said + other.said,
        )

    def each(self, seconds: float) -> float:
        """A submission's share."""
        return seconds / (self.submissions * self.classes)

    def told(self, what: str) -> float:
        """Seconds of "Starting took", "probing" or "recording", as `course grade` tells them."""
        return sum(map(float, re.findall(rf"{what} ([\d.]+) s", self.said)))

    @property
    def cost(self) -> float:
        """Probing and recording, of one submission."""
        return self.each(self.told("probing") + self.told("recording"))


def hand_in(course: Path, numbers: range) -> None:
    """One submission for each number: a stub every fifth, otherwise the bank's, in turn."""
    # Not those that take a nap at every call: rare in a class, and both would only wait for them.
    entries = [e for e in banking.entries("checkpoint") if "slow" not in e.name]
    right = [e for e in entries if e.is_wheat]
    wrong = [e for e in entries if not e.is_wheat]
    for number in numbers:
        kind = right if number % 2 else wrong
        entry = kind[number // 2 % len(kind)] if number % 5 else None
        # The comment makes no two packages alike: nothing can be graded once for all.
        source = f"{entry.path.read_text()}\n# {number}\n" if entry else None
        submit(course, f"s{number:04}", module=source, prediction=f'"{"abcd"[number % 4]}"')


def measured(who: str, command: list[str], course: Path, submissions: int) -> Run:
    """Run ``command`` in the class; its status is ignored, its output kept."""
    started, peak, before = time.perf_counter(), 0, _cpu()
    process = subprocess.Popen(
        command,
        cwd=course,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout), daemon=True)
    reader.start()
    while process.poll() is None:
        peak = max(peak, _memory(process.pid))
        time.sleep(EVERY)
    reader.join(10)
    seconds = time.perf_counter() - started
    return Run(who, submissions, 1, seconds, _cpu() - before, peak, "".join(said))


def _cpu() -> float:
    """Seconds of the processors that processes which have ended here took, theirs included."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(pid: int) -> int:
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except (psutil.Error, OSError):
            continue
    return total


def side_by_side(made: Path, work: Path, number: int) -> list[Run]:
    """Both on the same submissions; fails where a mark differs."""
    runs, found = [], []
    for who, command in (("nbgrader autograde", STOCK), ("course grade", [*COURSE, "grade"])):
        course = work / who.split()[0]
        shutil.copytree(made, course)
        hand_in(course, range(number))
        runs.append(measured(who, command, course, number))
        found.append(marks(course))
    different = {k for k in found[0].keys() | found[1] if found[0].get(k) != found[1].get(k)}
    if different:
        for key in sorted(different):
            print(key, *(marks_of.get(key) for marks_of in found))
        sys.exit(f"{len(different)} marks differ")
    if not found[0]:
        sys.exit(runs[0].said[-3000:])
    print(f"{len(found[0])} marks are the same in both gradebooks.")
    return runs


def ours_alone(made: Path, work: Path, number: int) -> Run:
    """Classes of ``number``, as many as hold the first hundred submissions."""
    runs = []
    for first in range(0, max(number, SAME - number + 1), number):
        course = work / f"class-{number}"
        shutil.copytree(made, course)
        hand_in(course, range(first, first + number))
        runs.append(measured("course grade", [*COURSE, "grade"], course, number))
        with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
            graded = len(book.assignment_submissions("bit_for_bit"))
        if graded != number:
            sys.exit(f"{graded} of {number} in the gradebook.\n{runs[-1].said[-3000:]}")
        shutil.rmtree(course)
    return functools.reduce(operator.add, runs)


def table(runs: list[Run]) -> Table:
    columns = (
        "class of",
        "classes",
        "s each, by the clock",
        "probing",
        "recording",
        "CPU",
        "start",
    )
    made = Table(NOTEBOOK, *columns, "peak MB")
    for run in runs:
        probing, recording, starting = map(run.told, ("probing", "recording", "Starting took"))
        ours = (f"{run.each(probing):.2f}", f"{run.each(recording):.2f}") if probing else ("", "")
        made.add_row(
            run.who,
            str(run.submissions),
            str(run.classes),
            f"{run.each(run.seconds):.2f}",
            *ours,
            f"{run.each(run.cpu):.2f}",
            f"{starting / run.classes:.1f}" if starting else "",
            f"{run.peak / 1e6:.0f}",
        )
    return made


def spread(numbers: list[float]) -> str:
    """How far the extremes are from the middle between them."""
    low, high = min(numbers), max(numbers)
    return f"within {(high - low) / (high + low):.0%} of their middle"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--both", type=int, default=8, help="submissions for both; 0: skip")
    parser.add_argument("--alone", type=int, nargs="*", default=[10, 100, 1000])
    asked = parser.parse_args()
    both: list[Run] = []
    alone: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="bench-grade-") as folder:
        work = Path(folder).resolve()
        made = work / "made"
        new_class(made)
        if asked.both:
            both = side_by_side(made, work, asked.both)
        for number in asked.alone:
            alone.append(ours_alone(made, work, number))
            print(f"{number}: {alone[-1].seconds:.0f} s", flush=True)
    Console(width=125).print(table([*both, *alone]))
    if alone:
        costs = [run.cost for run in alone]
        said = ", ".join(f"{cost:.2f} s" for cost in costs)
        print(f"Probing and recording, of each: {said}: {spread(costs)}.")
        print(f"Peak memory: {spread([run.peak for run in alone])}.")
    for run in [*both[1:], *alone] if both else []:
        many = both[0].each(both[0].seconds) / run.each(run.seconds)
        print(f"{run.submissions}: {many:.1f} times as many as stock in the same time")


if __name__ == "__main__":
    main()
