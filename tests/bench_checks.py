"""How long a check takes to answer, as a learner feels it: `make bench`. Never part of the tests.

The first answer counts from the start of the judge; "warm" is the median of five.
"""

from __future__ import annotations

import statistics
import sys
import time

from grader import notebook, paths, registry

WARM = 5


def main(names: list[str]) -> None:
    started = time.perf_counter()
    notebook.start()
    paths.package_root = lambda *_: paths.SOLUTIONS  # the reference, wherever this is run from
    first = notebook.check(names[0])
    print(f"first answer, server start included: {time.perf_counter() - started:.2f} s ({first})")
    print(f"{'check':34} {'warm median':>12}  {'slowest':>8}")
    for name in names:
        seconds = []
        for _ in range(WARM):
            started = time.perf_counter()
            notebook.check(name)
            seconds.append(time.perf_counter() - started)
        print(f"{name:34} {statistics.median(seconds):10.3f} s  {max(seconds):6.3f} s")


if __name__ == "__main__":
    asked = sys.argv[1:] or [None]
    main([c.id for what in asked for c in registry.select(what) if c.kind != "prediction"])
