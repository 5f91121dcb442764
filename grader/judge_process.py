"""The judge as a process of its own, for a kernel: ``python -m grader.judge_process``.

The kernel runs learner code, so nothing is decided there. One JSON request a line on stdin, one
JSON answer a line on stdout; it ends when stdin does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from grader import scratch
from grader.client import GraderFault, Runner, start_runner


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the kernel's Interrupt is not for us
    scratch.sweep()
    runner = start_runner()  # imports torch while the learner reads, and while the rest is imported
    from grader.judge import load_checks

    load_checks()
    try:
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line), runner)), flush=True)
    finally:
        runner.close()


def answer(request: dict[str, Any], runner: Runner) -> dict[str, Any]:
    """A verdict for ``{"check": …}``, or what a replay recorded for ``{"replay": …}``."""
    from grader import registry
    from grader.judge import judge, new_seed

    package = Path(request["savepoint"])
    if "replay" in request:
        return _replay(request, package, runner)
    check, drawn = registry.checks()[request["check"]], request.get("seed")
    given = request.get("answer")
    if os.environ.get("NBGRADER_EXECUTION") == "autograde":
        # Stock autograding gives the marks that `course grade` gives.
        from grader.classroom.fair import judge_fairly, package_in

        seed = new_seed() if drawn is None else drawn
        files = package_in(package)
        return judge_fairly(check, files, runner, seed=seed, answer=given)[0].as_json()
    return judge(check, package, runner, seed=drawn, answer=given).as_json()


def _replay(request: dict[str, Any], package: Path, runner: Runner) -> dict[str, Any]:
    from grader import explain
    from grader.judge import snapshot
    from grader.verdict import Status

    try:
        with snapshot(package) as copy:
            probe = {
                "probe": request["replay"],
                "args": request.get("args", {}),
                "savepoint": str(copy),
                "world_size": request.get("world_size", 1),
                "seconds": request.get("seconds", 60),
                "memory": 4 << 30,
            }
            report = runner.run(probe, {})[0]
    except (GraderFault, OSError) as fault:
        return {"ok": False, "status": str(Status.GRADER_FAULT), "message": str(fault)}
    if report.outcome == "ok":
        return {"ok": True, "facts": report.facts}
    status, message = explain.failure(report)
    return {"ok": False, "status": str(status), "message": message}


if __name__ == "__main__":
    main()
