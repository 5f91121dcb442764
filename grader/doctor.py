"""``course doctor``: what this machine can do, in lines that can be pasted into a report."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from grader import paths

PACKAGES = ("torch", "numpy", "matplotlib", "scikit-learn", "jupyterlab", "nbgrader")


def report() -> tuple[str, bool]:
    """(the report, whether the course can be taken here)."""
    lines = [_anonymous(_line(*found)) for found in _findings()]
    healthy = not any(line.startswith("✗") for line in lines)
    end = "The course runs here." if healthy else "Mend the lines marked ✗ first."
    return "\n".join([*lines, end]), healthy


def _anonymous(line: str) -> str:
    """The line without the names of this person's directories: it is going to be pasted."""
    places = {str(paths.ROOT): "<course>", sys.prefix: "<python>", str(Path.home()): "~"}
    for place, name in sorted(places.items(), key=lambda item: -len(item[0])):
        if len(place) > 1:
            line = line.replace(place, name)
    return line


def _line(mark: str, what: str, found: str) -> str:
    return f"{mark} {what:14} {found}"


def _findings() -> Iterator[tuple[str, str, str]]:
    version = platform.python_version()
    mark = "✓" if sys.version_info >= (3, 11) else "✗"
    yield mark, "Python", version if mark == "✓" else f"{version}; 3.11 or later is needed"
    yield "✓", "system", f"{platform.system()}, {platform.machine()}"
    for package in PACKAGES:
        try:
            yield "✓", package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            yield "✗", package, "not installed; `make lab` installs everything"
    yield from _torch()
    yield _disk()
    yield _ports()
    yield _fork()
    yield from _jail()
    yield from _grader()


def _torch() -> Iterator[tuple[str, str, str]]:
    try:
        import torch
    except ImportError:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "✓", "threads", f"torch uses {torch.get_num_threads()} of {cores} cores"
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield "✓", "GPU", ", ".join(names)
    elif torch.version.cuda and sys.platform == "linux":
        yield "·", "GPU", "none found, though this torch is built for CUDA; the CPU is enough"
    else:
        yield "·", "GPU", "none; the CPU is enough"


def _disk() -> tuple[str, str, str]:
    """Space where probes write; and whether a file can be written there at all."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
        free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    except OSError as error:
        return "✗", "disk", f"no temporary file can be written: {error.strerror}"
    if free <= 1:
        return "✗", "disk", f"{free:.1f} GB free for temporary files; the course needs 1 GB"
    return "✓", "disk", f"{free:.1f} GB free for temporary files"


def _ports() -> tuple[str, str, str]:
    """Jupyter and torchrun talk over the loopback interface: connect to ourselves."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                pass
    except OSError as error:
        why = error.strerror or str(error)
        return "✗", "ports", f"127.0.0.1 cannot be reached ({why}): a firewall, or no loopback"
    with socket.socket() as probe:
        jupyter = probe.connect_ex(("127.0.0.1", 8888)) != 0
    free = "8888 is free for Jupyter" if jupyter else "8888 is taken; Jupyter will use another"
    return "✓", "ports", f"127.0.0.1 answers; {free}"


def _fork() -> tuple[str, str, str]:
    """How checks are run: forked from a warm server where that is safe."""
    if sys.platform != "linux":
        found = "not safe on this system: checks run in spawned workers, slower, same verdicts"
        return "·", "fork", found
    return "✓", "fork", "checks run in processes forked from a warm server"


def _jail() -> Iterator[tuple[str, str, str]]:
    """For instructors: whether `course grade` can take untrusted submissions here."""
    from grader import jail_tier

    tier = jail_tier.find()
    if tier.full:
        yield "✓", "jail", f"full: `course grade` runs submissions in it; {', '.join(tier.extras)}"
        return
    yield "·", "jail", f"{tier.name}: `course grade` refuses untrusted submissions (learners: fine)"
    for line in tier.missing:
        yield "·", "jail", f"missing: {line}"


def _grader() -> Iterator[tuple[str, str, str]]:
    from grader.client import GraderFault, start_runner

    started = time.perf_counter()
    try:
        with contextlib.closing(start_runner()) as runner:
            request = {"probe": "start_here.hello", "seconds": 30, "memory": 1 << 30}
            outcome = runner.run(request, {})[0].outcome
        seconds = time.perf_counter() - started
        mark = "✓" if outcome == "ok" else "✗"
        yield mark, "grader", f"first answer after {seconds:.1f} s: {outcome}"
    except GraderFault as fault:
        yield "✗", "grader", str(fault)
