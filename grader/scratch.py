"""Directories for a moment, named for the process that made them.

A process that is killed removes nothing. What it left holds a submission's code, and is taken away
by whoever comes next.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

KINDS = ("graded", "package")


def directory(kind: str) -> tempfile.TemporaryDirectory[str]:
    """A temporary directory, of one of the ``KINDS``."""
    prefix = f"{kind}-{os.getpid()}-"
    return tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)


def abandoned(kind: str) -> Iterator[Path]:
    """This user's directories of a kind whose maker has gone. None where there is no /proc."""
    if not Path("/proc/self").exists():
        return
    for folder in Path(tempfile.gettempdir()).glob(f"{kind}-*-*"):
        maker = folder.name.split("-")[1]
        if maker.isdecimal() and not Path("/proc", maker).exists():
            try:
                own = folder.lstat().st_uid == os.geteuid()
            except OSError:
                continue  # another has taken it away
            if own:
                yield folder


def sweep() -> None:
    """Take away what killed processes left."""
    for kind in KINDS:
        for folder in abandoned(kind):
            shutil.rmtree(folder, ignore_errors=True)


def remove_own() -> None:
    """Take away this process's: it is about to end without tidying up."""
    for kind in KINDS:
        for folder in Path(tempfile.gettempdir()).glob(f"{kind}-{os.getpid()}-*"):
            shutil.rmtree(folder, ignore_errors=True)
