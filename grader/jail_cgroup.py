"""A control group for a jail: the memory of all its processes together, and their number.

RLIMIT_AS binds one process; a submission may start many. Where this user may make control groups
(root on v1, a delegated subtree on v2) the jail gets one, and with it no more of the processors
than another jail. Elsewhere the server inside adds up what its processes hold and stops the probe,
and a probe that had no processor is given more time. v1 was run; v2 was not.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

MEMORY = 4 << 30  # bytes: four ranks of a gigabyte
PROCESSES = 256


@dataclass
class Cgroup:
    """One group in each hierarchy: its directories, and the files that let a process in."""

    folders: list[Path]

    @property
    def entrances(self) -> list[Path]:
        return [folder / "cgroup.procs" for folder in self.folders]

    @classmethod
    def make(cls, name: str) -> Cgroup | None:
        """A new group; None where none that bounds memory can be made."""
        group = cls([])
        for controller, limits in _limits().items():
            for parent in _parents(controller):
                folder = parent / name
                try:
                    folder.mkdir()
                    group.folders.append(folder)
                    for file, value in limits:
                        (folder / file).write_text(str(value))
                except OSError:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                    group.folders = [f for f in group.folders if f != folder]
                    continue
                break
            else:
                # RLIMIT_NPROC bounds processes as well, and a probe's time makes up for its share.
                if controller not in ("pids", "cpu"):
                    group.remove()
                    return None
        return group if group.folders else None

    @classmethod
    def named(cls, name: str) -> Cgroup:
        """What there is of a group that was made under this name."""
        parents = [parent for controller in _limits() for parent in _parents(controller)]
        return cls([parent / name for parent in parents if (parent / name).is_dir()])

    def remove(self) -> None:
        for folder in self.folders:
            for _ in range(50):
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    break
                except OSError:  # its last process is still on its way out
                    time.sleep(0.02)
                else:
                    break


def _limits() -> dict[str, list[tuple[str, int]]]:
    if _is_v2():
        return {"": [("memory.max", MEMORY), ("pids.max", PROCESSES)]}
    return {
        "memory": [("memory.limit_in_bytes", MEMORY)],
        "pids": [("pids.max", PROCESSES)],
        "cpu": [],  # to be in one is enough: a jail's share is one group's, however many it starts
    }


def _is_v2() -> bool:
    return Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _parents(controller: str) -> list[Path]:
    """Where a group could be made: below our own, or (v2) beside it."""
    root = Path("/sys/fs/cgroup")
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(",") if controller else names == "":
            own = root / controller / path.lstrip("/")
            return [own] if controller else [own, own.parent]
    return []
