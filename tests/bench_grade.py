"""`make bench-grade`: a class through stock `nbgrader autograde` and through `course grade`.

One class of notebook 01: stubs, right and wrong packages from the bank, no two alike. Both grade
the same 8 submissions in one run, and their marks are compared; then ours alone grades larger
classes. Memory is the processes' proportional set size (PSS), summed over the whole tree, the
highest of samples two seconds apart. Never part of the tests.
"""

from __future__ import annotations

import argparse
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
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
EVERY = 2.0  # seconds between two samples of memory, each of which costs some itself
ENVIRONMENT = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


@dataclass
class Run:
    """What one run over a class cost."""

    who: str
    submissions: int
    seconds: float
    peak: int  # bytes
    said: str

    @property
    def each(self) -> float:
        return self.seconds / self.submissions

    @property
    def starting(self) -> float:
        """Seconds before the first submission was looked at: once a run, however large."""
        found = re.search(r"Starting took ([\d.]+) s", self.said)
        return float(found[1]) if found else 0.0


def hand_in(course: Path, numbers: range) -> None:
    """One submission for each number: a stub every fifth, otherwise the bank's, in turn."""
    # Not those that take a nap at every call: rare in a class, and both would only wait for them.
    entries = [e for e in banking.entries("checkpoint") if "slow" not in e.name]
    right = itertools.cycle([e for e in entries if e.is_wheat])
    wrong = itertools.cycle([e for e in entries if not e.is_wheat])
    for number in numbers:
        entry = None if number % 5 == 0 else next(right if number % 2 else wrong)
        # The comment makes no two packages alike: nothing can be graded once for all.
        source = f"{entry.path.read_text()}\n# {number}\n" if entry else None
        submit(course, f"s{number:04}", module=source, prediction=f'"{"abcd"[number % 4]}"')


def measured(who: str, command: list[str], course: Path, submissions: int) -> Run:
    """Run ``command`` in the class; its status is ignored, its output kept."""
    started, peak = time.perf_counter(), 0
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
    return Run(who, submissions, time.perf_counter() - started, peak, "".join(said))


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
    course = work / f"class-{number}"
    shutil.copytree(made, course)
    hand_in(course, range(number))
    run = measured("course grade", [*COURSE, "grade"], course, number)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        graded = len(book.assignment_submissions("bit_for_bit"))
    if graded != number:
        sys.exit(f"{graded} of {number} in the gradebook.\n{run.said[-3000:]}")
    shutil.rmtree(course)
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--both", type=int, default=8, help="submissions for both; 0: skip")
    parser.add_argument("--alone", type=int, nargs="*", default=[10, 100, 1000])
    asked = parser.parse_args()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="bench-grade-") as folder:
        work = Path(folder).resolve()
        made = work / "made"
        new_class(made)
        if asked.both:
            runs += side_by_side(made, work, asked.both)
        for number in asked.alone:
            runs.append(ours_alone(made, work, number))
            print(f"{number}: {runs[-1].seconds:.0f} s", flush=True)
    columns = ("submissions", "seconds", "s each", "of them, starting", "then, s each", "peak MB")
    table = Table(NOTEBOOK, *columns)
    for run in runs:
        table.add_row(
            run.who,
            str(run.submissions),
            f"{run.seconds:.1f}",
            f"{run.each:.2f}",
            f"{run.starting:.1f}" if run.starting else "",
            f"{(run.seconds - run.starting) / run.submissions:.2f}",
            f"{run.peak / 1e6:.0f}",
        )
    Console().print(table)
    for run in runs:
        took = [line for line in run.said.splitlines() if line.startswith("Starting took")]
        print(f"{run.who}, {run.submissions}: {took[0]}" if took else "", end="\n" if took else "")
    if asked.both:
        for run in runs[1:]:
            many = runs[0].each / run.each
            print(f"{run.submissions}: {many:.1f} times as many as stock in the same time")


if __name__ == "__main__":
    main()
