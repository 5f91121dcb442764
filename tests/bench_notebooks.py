"""How long each notebook runs, beside the seconds on its card: part of `make bench`, never of the
tests.

The notebook is the instructor's, the whole of it executed in a kernel of its own. Ends in 1 where
one runs for longer than its card says.
"""

from __future__ import annotations

import sys
import time

from grader import registry
from grader.paths import SOLUTIONS
from grader.release import build


def main(names: list[str]) -> int:
    over, wanted = 0, {check.incident for name in names for check in registry.select(name)}
    print(f"{'notebook':24} {'seconds':>8} {'card':>6} {'ratio':>6}")
    for incident in registry.incidents().values():
        if wanted and incident.name not in wanted:
            continue
        started = time.perf_counter()
        build.run(SOLUTIONS / f"{incident.notebook}.py")
        seconds, card = time.perf_counter() - started, incident.seconds
        over += seconds > card
        print(f"{incident.notebook:24} {seconds:8.1f} {card:6} {seconds / card:6.2f}")
    return over > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
