"""Run a program in a process of its own, with a time limit, and capture what it said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """How a program ended. ``returncode`` is -9 for one that was killed, None if it timed out."""

    returncode: int | None
    output: str

    @property
    def killed(self) -> bool:
        return self.returncode is not None and self.returncode < 0

    @property
    def how(self) -> str:
        """How it ended, in words."""
        if self.returncode is None:
            return "ran into its time limit"
        if self.killed:
            return f"killed by {signal.Signals(-self.returncode).name}"
        return "finished" if self.returncode == 0 else f"failed, exit status {self.returncode}"


def python(
    *arguments: str,
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Run:
    """Run this Python with ``arguments`` in a session of its own; leave no process behind."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=cwd,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
        returncode: int | None = process.returncode
    except subprocess.TimeoutExpired:
        returncode = None
        _kill_session(process)
        output, _ = process.communicate()
    except BaseException:  # an interrupted cell must not leave the program running
        _kill_session(process)
        raise
    return Run(returncode, output)


def _kill_session(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
