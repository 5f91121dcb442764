"""``course doctor``: what this machine can do, in lines that can be pasted into a report."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator

PACKAGES = ("torch", "numpy", "matplotlib", "scikit-learn", "jupyterlab", "nbgrader")


def report() -> tuple[str, bool]:
    """(the report, whether the course can be taken here)."""
    lines = [_line(*found) for found in _findings()]
    healthy = not any(line.startswith("✗") for line in lines)
    end = "The course runs here." if healthy else "Mend the lines marked ✗ first."
    return "\n".join([*lines, end]), healthy


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
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    yield ("✓" if free > 1 else "✗"), "disk", f"{free:.1f} GB free for temporary files"
    yield "✓", "checks run by", _runner()
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


def _runner() -> str:
    if sys.platform == "linux":
        return "a warm server that forks"
    return "spawned workers (fork is not safe on this system): slower, the same verdicts"


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
