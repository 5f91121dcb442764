"""Incident 06: disks that fill, bits that flip and processes that die, at a chosen moment.

Whatever way a package takes to write, ``torch.save`` opens one of two writers; what it does to
files by other means, Python announces as audit events. Both are counted here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from workbench.faults import kill_now

WRITERS = ("_open_zipfile_writer_file", "_open_zipfile_writer_buffer")
MOMENTS = ("os.rename", "os.remove", "os.link", "os.symlink", "os.truncate")


def flip_bit(path: Path) -> None:
    """Flip one bit in the middle of the largest tensor of a file that torch.save wrote."""
    with zipfile.ZipFile(path) as archive:
        records = [info for info in archive.infolist() if "/data/" in info.filename]
        record = max(records or archive.infolist(), key=lambda info: info.file_size)
    with path.open("r+b") as file:
        file.seek(record.header_offset + 26)  # the local header's two lengths
        name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
        place = record.header_offset + 30 + name + extra + record.file_size // 2
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))


def truncate(path: Path) -> None:
    """Leave the first half of a file."""
    os.truncate(path, path.stat().st_size // 2)


class _Faulty:
    """Wraps torch.save's writers. ``on_file(number, path)`` is called when a file is complete."""

    def __init__(self) -> None:
        self.files = 0

    def opened(self) -> None: ...

    def half(self) -> None: ...

    def complete(self, number: int, path: Path) -> None: ...

    def wrap(self, base: Any) -> Any:
        faulty = self

        class Writer(base):
            def __init__(self, target: Any) -> None:
                super().__init__(target)
                name = getattr(target, "name", None) if hasattr(target, "write") else target
                # Only what goes to a file: a save into memory meets no disk.
                self._path = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else None
                if self._path is not None:
                    faulty.files += 1
                    self._number = faulty.files
                    faulty.opened()

            def __exit__(self, *error: Any) -> None:
                if self._path is not None:
                    faulty.half()
                super().__exit__(*error)
                if self._path is not None:
                    faulty.complete(self._number, self._path)

        return Writer


class _Full(_Faulty):
    """From the ``at``-th file on there is no room: half of it is written, then an error."""

    def __init__(self, at: int, error: str) -> None:
        super().__init__()
        self.at, self.error = at, error

    def complete(self, number: int, path: Path) -> None:
        if number >= self.at:
            truncate(path)
            if self.error == "RuntimeError":
                raise RuntimeError(f"PytorchStreamWriter failed writing file data/0: {path.name}")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class _Flip(_Faulty):
    """The ``at``-th file is another than was written, and nobody said so."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def complete(self, number: int, path: Path) -> None:
        if number == self.at:
            flip_bit(path)


class _Kill(_Faulty):
    """SIGKILL at the ``at``-th moment: a file opened, half written, complete; or just before a
    rename or a removal."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.left, self.armed = at, True
        sys.addaudithook(lambda event, _: self.moment() if event in MOMENTS else None)

    def moment(self) -> None:
        self.left -= self.armed
        if self.armed and self.left == 0:
            kill_now()

    def opened(self) -> None:
        self.moment()

    def half(self) -> None:
        self.moment()

    def complete(self, number: int, path: Path) -> None:
        self.moment()


@contextlib.contextmanager
def fault(kind: str | None, at: int = 1, error: str = "OSError") -> Iterator[None]:
    """While this lasts, ``kind`` happens: "full", "flip", "kill", "limit", "elsewhere", or None.

    "limit" is the real thing where there is one: no file may grow beyond ``at`` bytes.
    "elsewhere": the system's temporary files are on another disk.
    """
    if kind is None:
        yield
        return
    if kind == "elsewhere":
        with _temporary_files_elsewhere():
            yield
        return
    if kind == "limit":
        with _file_size_limit(at):
            yield
        return
    faulty = {
        "full": lambda: _Full(at, error),
        "flip": lambda: _Flip(at),
        "kill": lambda: _Kill(at),
    }
    chosen = faulty[kind]()
    kept = {name: getattr(torch.serialization, name) for name in WRITERS}
    for name, writer in kept.items():
        setattr(torch.serialization, name, chosen.wrap(writer))
    try:
        yield
    finally:
        chosen.armed = False
        for name, writer in kept.items():
            setattr(torch.serialization, name, writer)


@contextlib.contextmanager
def _temporary_files_elsewhere() -> Iterator[None]:
    """TMPDIR on another file system, where there is one.

    Each checkpoint gets a hard link, ``<name>.kept``: it shows what is written into the old file.
    """
    for path in sorted(Path("run").glob("*.pt")):
        Path(f"{path.name}.kept").hardlink_to(path)
    shm = Path("/dev/shm")
    here = Path.cwd().stat().st_dev
    if not (shm.is_dir() and os.access(shm, os.W_OK)) or shm.stat().st_dev == here:
        yield
        return
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"], tempfile.tempdir = folder, None
        try:
            yield
        finally:
            tempfile.tempdir = None
            if before is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before


@contextlib.contextmanager
def _file_size_limit(size: int) -> Iterator[None]:
    try:
        import resource
    except ImportError:  # Windows has none: the simulated full disk has to do
        with fault("full"):
            yield
        return
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
