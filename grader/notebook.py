"""What a notebook's cells call: ``check``, ``hint``, ``replay`` and ``progress``.

All of them ask a judge in a process of its own (judge_process.py). Nothing here decides, and no
learner code runs in the kernel on their account: a package that crashes, hangs or fills memory
takes a probe down and leaves the kernel alive.
"""

from __future__ import annotations

import atexit
import html
import json
import os
import subprocess
import sys
import threading
from typing import Any

from grader import paths, registry, remembered
from grader.verdict import Status, Verdict

_judge: subprocess.Popen[str] | None = None
_lock = threading.Lock()


class Result:
    """A verdict, shown: HTML for people, the bare points as text, which nbgrader records."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict

    def _repr_html_(self) -> str:
        return self.verdict.as_html()

    def __repr__(self) -> str:
        return f"{self.verdict.points:g}"

    def __str__(self) -> str:
        return self.verdict.as_text()


class Message:
    """A short text, shown as HTML and as text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def _repr_html_(self) -> str:
        return f'<div style="white-space:pre-wrap">{html.escape(self.text)}</div>'

    def __repr__(self) -> str:
        return self.text


def check(check_id: str, answer: Any = None, *, seed: int | None = None) -> Result:
    """Check one task of your package, as it is on disk now; nothing needs a kernel restart.

    ``check("lr_reset.momentum")``. For a prediction, pass your answer too. ``seed`` repeats the
    draws of an earlier run.
    """
    registry.find_hint(check_id)  # an unknown name is an error at once, with the nearest names
    answer = answer if isinstance(answer, str) or answer is None else repr(answer)
    try:
        root = paths.package_root()
        of = remembered.digest(registry.incidents()[check_id.split(".")[0]], root)
        request = {"check": check_id, "answer": answer, "seed": seed}
        verdict = Verdict.from_json(_ask(request))
        remembered.remember(verdict, root, of)
    except (paths.NoPackage, _JudgeGone) as error:
        found = registry.checks()[check_id]
        fault = Status.GRADER_FAULT
        verdict = Verdict(check_id, fault, 0.0, found.points, str(error), None, seed or 0, 0.0)
    _tell_validate(verdict)
    return Result(verdict)


def _tell_validate(verdict: Verdict) -> None:
    """Under nbgrader's Validate, put an unpassed verdict's message on stderr.

    Validate shows what a failing cell has there, and without it no more than "partial credit".
    Nowhere else: when nbgrader grades, anything on stderr is a 0.
    """
    if os.environ.get("NBGRADER_VALIDATING") != "1" or verdict.status is Status.PASSED:
        return
    if registry.checks()[verdict.check].kind != "further":  # an optional task does not fail
        print(verdict.as_text(), file=sys.stderr, flush=True)


def hint(code: str) -> Message:
    """Help with a check, one step further each time it is called."""
    from grader.hints import next_hint

    return Message(next_hint(code))


def replay(
    probe: str, *, seconds: float = 60, ranks: int = 1, **args: Any
) -> dict[str, Any] | None:
    """Run a piece of the notebook with your package, in a process of its own, or in several.

    Returns what it (or rank 0) recorded. If your package is not there yet, or fails, says so and
    returns None.
    """
    try:
        request = {"replay": probe, "args": args, "seconds": seconds, "world_size": ranks}
        reply = _ask(request)
    except (paths.NoPackage, _JudgeGone) as error:
        reply = {"ok": False, "message": str(error)}
    if reply["ok"]:
        return reply["facts"]
    print(reply["message"])
    return None


class _JudgeGone(RuntimeError):
    pass


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    """Send one request, wait for its answer; a judge that has died is started anew, once."""
    request = {**request, "savepoint": str(paths.package_root())}
    with _lock:
        for _ in range(2):
            process = start()
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = ""
            except BaseException:  # Interrupt: the answer would be read by the next call
                stop()
                raise
            if line:
                return json.loads(line)
            stop()
    raise _JudgeGone(
        "The grader's process ended. Run the cell again; if it recurs: `course doctor`."
    )


def start() -> subprocess.Popen[str]:
    """Start the judge, if it is not running. Importing this module in a kernel does it already."""
    global _judge
    if _judge is None or _judge.poll() is not None:
        _judge = subprocess.Popen(
            [sys.executable, "-P", "-B", "-m", "grader.judge_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Nothing may reach a test cell's stderr: nbgrader scores such a cell 0.
            stderr=subprocess.DEVNULL,
            # Not in the kernel's process group, or Interrupt would end it.
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            text=True,
            encoding="utf-8",
        )
    return _judge


def stop() -> None:
    """End the judge; its own children end with it."""
    global _judge
    if _judge is not None:
        _judge.stdin.close()
        try:
            _judge.wait(2)
        except subprocess.TimeoutExpired:
            _judge.kill()
            _judge.wait()
        _judge.stdout.close()
        _judge = None


atexit.register(stop)
if "ipykernel" in sys.modules:  # a warm judge answers the first check in well under a second
    start()
