"""What the server does besides when it is process 1 of a jail: bounds, and a clean slate.

As process 1 of its own process namespace it cannot be killed or stopped from inside, and
``kill(-1)`` reaches everything else there is, but for the process that calls it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from functools import cache
from pathlib import Path

PROCESSES = 256
OPEN_FILES = 1024
CLEAN_SECONDS = 5.0
PLACES = ("/tmp", "/dev/shm")
CLOSING = 1000  # connections: of what four ranks leave, a hundred times as many
_inside = False
_at_first: dict[str, tuple[int, list[str]]] = {}  # what a probe could change of the places
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def bind_server() -> None:
    """Limits on this process and all that it forks. Hard ones: nothing inside can lift them."""
    import resource

    global _inside
    _inside = os.getpid() == 1
    if not _inside:
        raise SystemExit("--jailed is for process 1 of a jail")
    limits = {
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 64 << 10,
        # Message queues outlive their makers.
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    _at_first.update({place: _access(place) for place in PLACES})
    _mounted()  # remembered, for every fork


def bind_probe(seconds: float) -> None:
    """In a probe: what its server may do and it may not."""
    import resource

    # The processor's seconds bound what a wall clock cannot see: many processes at once.
    allowed = int(seconds) * 4 + 5
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, allowed))
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_FSIZE):
        soft = resource.getrlimit(limit)[0]
        resource.setrlimit(limit, (soft, soft))
    # Where the kernel must choose whom to kill, it is the probe, not its server.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def inside() -> bool:
    """Whether this process is in a jail, where nobody else's processes are."""
    return _inside


def kill_all() -> bool:
    """Kill everything in this process namespace but its first process and this one, and wait until
    it has gone. Whether there was anything to kill.
    """
    if not _inside:
        return False
    until, found = time.monotonic() + CLEAN_SECONDS, False
    while time.monotonic() < until:
        try:
            os.kill(-1, signal.SIGKILL)
        except ProcessLookupError:
            break
        found = True
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.001)
    return found


def is_clean() -> bool:
    """Remove what a probe left behind. False where that fails or takes too long: start anew."""
    try:
        left = _others()
    except OSError:
        return False
    until = time.monotonic() + CLEAN_SECONDS
    emptied = not left and all(_empty(Path(place), until, depth=0) for place in PLACES)
    unchanged = all(_access(place) == _at_first[place] for place in PLACES)
    return emptied and unchanged and _closing() < CLOSING


def _others() -> list[Path]:
    """The processes that belong to a probe."""
    ours = ("1", str(os.getpid()))
    with os.scandir("/proc") as entries:
        names = [entry.name for entry in entries if entry.name.isdecimal()]
    return [Path("/proc", name) for name in names if name not in ours]


def tasks() -> int:
    """How many threads the probe's processes have."""
    total = 0
    for process in _others():
        with contextlib.suppress(OSError):
            total += len(list((process / "task").iterdir()))
    return total


def _access(place: str) -> tuple[int, list[str]]:
    """(mode, names of the extended attributes): a default ACL would reach the next one's files."""
    return Path(place).stat().st_mode, sorted(os.listxattr(place))


def _closing() -> int:
    """How many connections hold a port of the jail's after their process has gone."""
    try:
        lines = Path("/proc/net/sockstat").read_text().splitlines()
    except OSError:
        return 0
    words = next((line.split() for line in lines if line.startswith("TCP:")), [])
    counts = dict(zip(words[1::2], words[2::2], strict=False))
    return int(counts.get("tw", 0)) + int(counts.get("orphan", 0))


@cache
def _mounted() -> tuple[Path, ...]:
    """What is mounted below the places that are emptied: the course, where it lies under /tmp."""
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ()
    points = [Path(line.split()[4]) for line in lines]
    return tuple(p for p in points if any(Path(place) in p.parents for place in PLACES))


def _empty(folder: Path, until: float, depth: int) -> bool:
    """Empty a directory without following a link; give up on one that is very deep."""
    if depth > 100:
        return False
    try:
        for path in folder.iterdir():
            if time.monotonic() > until:
                return False
            if path in _mounted():
                continue
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
                if not _empty(path, until, depth + 1):
                    return False
                if not any(path in point.parents for point in _mounted()):
                    path.rmdir()
            else:
                path.unlink()
    except OSError:
        return False
    return True


class Watch:
    """Adds up what the jail's processes hold, where no control group does."""

    def __init__(self, budget: int | None) -> None:
        self.budget, self._next = budget, 0.0

    def over(self, until: float) -> bool:
        """Whether they hold more than the budget; looks four times a second, not past ``until``."""
        if self.budget is None or time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + 0.25
        return _held(until) > self.budget


def _held(until: float) -> int:
    """Bytes that belong to one process each, of all that belong to a probe and are looked at in
    time."""
    total = 0
    for process in _others():
        if time.monotonic() > until:
            break
        try:
            lines = (process / "smaps_rollup").read_text().splitlines()
            kilobytes = [int(x.split()[1]) for x in lines if x.startswith(("Private_", "Swap:"))]
            total += sum(kilobytes) << 10
        except (OSError, ValueError, IndexError):
            # Gone, or it hides: then all that it maps counts.
            with contextlib.suppress(OSError, ValueError):
                total += int((process / "statm").read_text().split()[1]) * _PAGE
    return total
