"""Who probes: processes on this machine, or the workers of a Dask cluster."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path

from grader.classroom import unit


class CannotGrade(Exception):
    """Nothing was graded; the text says what is missing."""


def require_class(root: Path) -> None:
    """Raise CannotGrade if ``root`` is not a class's directory."""
    if not (root / "nbgrader_config.py").exists():
        raise CannotGrade(
            f"{root} is not a class: it has no nbgrader_config.py. Run this in a class's "
            "directory; `course classroom new` makes one."
        )


@contextlib.contextmanager
def hired(jobs: int, scheduler: str | None, *, jailed: bool) -> Iterator[tuple[Executor, int]]:
    """(an executor, how many workers it has). Processes here start warming up at once."""
    if scheduler is not None:
        with _cluster(scheduler) as cluster:
            yield cluster
        return
    pool = ProcessPoolExecutor(
        jobs,
        # They end when this process does, however it ends.
        mp_context=multiprocessing.get_context("spawn"),
        initializer=unit.follow,
        initargs=(os.getpid(),),
    )
    with pool:
        for _ in range(jobs):
            pool.submit(unit.get_ready, jailed)
        yield pool, jobs


@contextlib.contextmanager
def _cluster(scheduler: str) -> Iterator[tuple[Executor, int]]:
    try:
        from distributed import Client
    except ImportError:
        raise CannotGrade(
            "--scheduler needs Dask: pip install 'bit-for-bit[dask]' (here and on the workers)."
        ) from None
    try:
        client = Client(scheduler, timeout="20s", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise CannotGrade(f"No Dask scheduler answers at {scheduler}: {error}") from None
    with client:
        workers = sum(client.nthreads().values())
        if not workers:
            raise CannotGrade(f"The Dask scheduler at {scheduler} has no workers.")
        try:
            yield client.get_executor(pure=False, retries=1), workers
        finally:
            with contextlib.suppress(OSError, TimeoutError):
                client.run(unit.release_all)


def default_jobs() -> int:
    """As many workers as cores, but no more than memory for their jails allows."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with contextlib.suppress(OSError, ValueError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        cores = min(cores, max(1, memory // (2 << 30)))
    return cores
