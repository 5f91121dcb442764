"""Run a program in a process of its own, with a time limit, and capture what it said."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
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
    # torchrun starts every rank in a session of its own: the family has to be found first.
    family = _descendants(process.pid)
    if hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    for pid in family:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _descendants(pid: int) -> list[int]:
    """Children of ``pid``, their children, and so on; empty where ``ps`` does not say."""
    try:
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, timeout=5
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    parents = [tuple(map(int, line.split())) for line in listed.splitlines()]
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents if parent == ancestor]
    return found[1:]


def torchrun(
    *arguments: str,
    nproc: int,
    max_restarts: int = 0,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Run:
    """``torchrun`` with ``nproc`` ranks on this machine, and no process left behind.

    ``arguments`` are a script and its own, or ``"-m", "module"`` and its own. The ranks meet at
    127.0.0.1: torchrun's ``--standalone`` asks for the host's name, which some machines lack.
    """
    port = _free_port()
    options = ["--nnodes", "1", "--nproc-per-node", str(nproc), "--max-restarts", str(max_restarts)]
    # A static rendezvous (--master-addr) keeps a dead rank's address over a restart.
    where = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}"]
    where += ["--rdzv-id", str(port), "--local-addr", "127.0.0.1"]
    # torch 2.13 keeps one store over restarts, with the addresses of the ranks before: one that
    # starts faster than its peer may call a dead one. This gives each restart a store of its own.
    own_store = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return python(
        *("-m", "torch.distributed.run", *options, *where, *arguments),
        timeout=timeout,
        env={"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": _loopback(), **own_store, **(env or {})},
        cwd=cwd,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _loopback() -> str:
    return "lo0" if sys.platform == "darwin" else "lo"
