"""What was handed in, read without trusting it: a directory, or a zip or tar archive from an LMS.

Only two kinds of file are used: the modules of ``savepoint/`` and the notebooks that the class
knows. They are read as bytes into memory. Nothing is unpacked, no link is followed, no name from
an archive becomes a path on this machine; whose work it is says the directory under
``submitted/``, never a name in the submission.
"""

from __future__ import annotations

import os
import stat
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

PACKAGE = "savepoint"
MAX_MODULE = 1 << 20
MAX_PACKAGE = 4 << 20
MAX_NOTEBOOK = 10 << 20
MAX_ENTRIES = 5000
MAX_DEPTH = 8
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
TIMESTAMP = "timestamp.txt"


@dataclass
class Submission:
    """One student's work. ``why`` says why there is nothing at all to grade."""

    student: str
    package: dict[str, bytes] = field(default_factory=dict)  # "savepoint/checkpoint.py": source
    notebooks: dict[str, bytes] = field(default_factory=dict)  # "01_lr_reset": the file's bytes
    timestamp: bytes | None = None
    unread: dict[str, str] = field(default_factory=dict)  # "savepoint" or a stem: why not
    notes: list[str] = field(default_factory=list)
    why: str | None = None

    def note(self, text: str) -> None:
        if text not in self.notes and len(self.notes) < 20:
            self.notes.append(text)


class _Refused(Exception):
    """This file is not read; the text says why."""


def students(submitted: Path, assignment: str) -> list[str]:
    """Everybody with a directory under ``submitted/``, by name."""
    if not submitted.is_dir():
        return []
    return sorted(p.name for p in submitted.iterdir() if p.is_dir() and not p.name.startswith("."))


def read(submitted: Path, student: str, assignment: str, stems: Iterable[str]) -> Submission:
    """What ``student`` handed in. Never raises: what cannot be read is named in the result."""
    submission = Submission(student)
    stems = set(stems)
    home = submitted / student
    if home.is_symlink():
        submission.why = f"submitted/{student} is a symbolic link: not followed"
        return submission
    try:
        _fill(submission, _found(submission, home, assignment), stems)
    except (OSError, zipfile.BadZipFile, tarfile.TarError, EOFError, RuntimeError) as error:
        submission.why = f"it cannot be read ({type(error).__name__}: {error})"
    except Exception as error:  # a parser's own bug must not end the batch
        submission.why = f"it cannot be read ({type(error).__name__})"
    if submission.why is None and not submission.package and not submission.notebooks:
        said = "; ".join([*submission.unread.values(), *submission.notes])
        submission.why = "it has neither savepoint/ nor a notebook" + (f" ({said})" if said else "")
    return submission


def _found(submission: Submission, home: Path, assignment: str) -> dict[str, _Item]:
    """The submission's files by path: the directory's, or those of the newest archive."""
    folder = home / assignment
    beside = [p for p in home.iterdir() if _is_archive(p)]
    archives = [p for p in beside if p.name.startswith(assignment)] or beside
    items: dict[str, _Item] = {}
    if folder.is_symlink():
        raise _Unusable(f"{assignment} is a symbolic link: not followed")
    if folder.is_dir():
        items = {item.path: item for item in _walk(submission, folder)}
        archives += [p for p in folder.iterdir() if _is_archive(p)]
    if any(_matters(path) for path in items):
        return items
    if not archives:
        return items
    newest = max(archives, key=lambda p: (p.lstat().st_mtime, p.name))
    if len(archives) > 1:
        submission.note(f"of {len(archives)} archives the newest was taken: {newest.name}")
    return {item.path: item for item in _archived(submission, newest)}


class _Unusable(RuntimeError):
    pass


@dataclass(frozen=True)
class _Item:
    """A regular file: its path inside the submission, its size, and a way to its bytes."""

    path: str
    size: int
    place: Path | None = None
    data: bytes | None = None

    def bytes(self, limit: int) -> bytes:
        if self.size > limit:
            raise _Refused(f"{_last(self.path)} is larger than {limit >> 20} MB: not read")
        if self.data is not None:
            return self.data
        # The file was looked at a moment ago; what is opened now must still be a plain file.
        descriptor = os.open(self.place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _Refused(f"{_last(self.path)} is not a plain file: not read")
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise _Refused(f"{_last(self.path)} is larger than {limit >> 20} MB: not read")
        return data


def _walk(submission: Submission, folder: Path, below: str = "", depth: int = 0) -> Iterator[_Item]:
    if depth > MAX_DEPTH:
        submission.note(f"{below} is nested too deep: not read")
        return
    with os.scandir(folder) as entries:
        for number, entry in enumerate(sorted(entries, key=lambda e: e.name)):
            if number > MAX_ENTRIES:
                submission.note(f"{below or '.'} has more than {MAX_ENTRIES} entries: not all read")
                return
            path = f"{below}{entry.name}"
            if entry.name.startswith(".") or entry.name == "__pycache__":
                continue
            if entry.is_symlink():
                submission.note(f"{path} is a symbolic link: not followed")
            elif entry.is_dir(follow_symlinks=False):
                yield from _walk(submission, Path(entry.path), f"{path}/", depth + 1)
            elif entry.is_file(follow_symlinks=False):
                yield _Item(path, entry.stat(follow_symlinks=False).st_size, Path(entry.path))
            else:
                submission.note(f"{path} is not a plain file: not read")


def _is_archive(path: Path) -> bool:
    return path.name.lower().endswith(ARCHIVES) and path.is_file() and not path.is_symlink()


def _archived(submission: Submission, archive: Path) -> Iterator[_Item]:
    """The files in an archive that matter, read into memory; hostile entries are named."""
    opened = _zipped if archive.name.lower().endswith(".zip") else _tarred
    for number, (name, size, trouble, read) in enumerate(opened(archive)):
        if number > MAX_ENTRIES:
            submission.note(f"{archive.name} has more than {MAX_ENTRIES} entries: not all read")
            return
        path = name.replace("\\", "/")
        parts = PurePosixPath(path).parts
        if path.startswith("/") or (parts and ":" in parts[0]):
            submission.note(f"{archive.name} names an absolute path ({_short(name)}): not read")
        elif ".." in parts:
            submission.note(f"{archive.name} names a path outside of it ({_short(name)}): not read")
        elif trouble:
            submission.note(f"{_short(path)} in {archive.name} is {trouble}: not read")
        elif _matters(path) and len(parts) <= MAX_DEPTH:
            limit = MAX_NOTEBOOK if path.endswith(".ipynb") else MAX_MODULE
            # The header may lie: no more than the limit and one byte is ever decompressed.
            data = b"" if size > limit else read(limit + 1)
            yield _Item("/".join(parts), max(size, len(data)), data=data)


def _zipped(archive: Path) -> Iterator[tuple]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.is_dir():
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            trouble = "a symbolic link" if kind == stat.S_IFLNK else ""
            trouble = trouble or ("encrypted" if info.flag_bits & 1 else "")
            trouble = trouble or ("not a plain file" if kind not in (0, stat.S_IFREG) else "")

            def read(limit: int, info: zipfile.ZipInfo = info) -> bytes:
                with opened.open(info) as stream:
                    return stream.read(limit)

            yield info.filename, info.file_size, trouble, read


def _tarred(archive: Path) -> Iterator[tuple]:
    with tarfile.open(archive) as opened:
        for info in opened:
            if info.isdir():
                continue
            trouble = "a symbolic link" if info.issym() else "a hard link" if info.islnk() else ""
            trouble = trouble or ("" if info.isreg() else "not a plain file")

            def read(limit: int, info: tarfile.TarInfo = info) -> bytes:
                with opened.extractfile(info) as stream:
                    return stream.read(limit)

            yield info.name, info.size, trouble, read


def _matters(path: str) -> bool:
    parts = path.split("/")
    if parts[-1] == TIMESTAMP or parts[-1].endswith(".ipynb"):
        return True
    return PACKAGE in parts[:-1] and path.endswith(".py")


def _fill(submission: Submission, items: dict[str, _Item], stems: set[str]) -> None:
    """Find savepoint/ and the notebooks, at the top or in one folder that wraps it all."""
    top = _top(items, stems)
    total = 0
    for path, item in items.items():
        if not path.startswith(top):
            continue
        inner = path[len(top) :]
        stem = inner.removesuffix(".ipynb")
        key = PACKAGE if inner.startswith(f"{PACKAGE}/") else stem
        try:
            if key == PACKAGE and inner.endswith(".py"):
                data = item.bytes(MAX_MODULE)
                total += len(data)
                if total > MAX_PACKAGE:
                    raise _Refused(f"savepoint/ is larger than {MAX_PACKAGE >> 20} MB")
                submission.package[inner] = data
            elif inner != stem and stem in stems:
                submission.notebooks[stem] = item.bytes(MAX_NOTEBOOK)
            elif inner == TIMESTAMP:
                submission.timestamp = item.bytes(1 << 10)
        except _Refused as refused:
            submission.note(str(refused))
            submission.unread[key] = str(refused)
    if total > MAX_PACKAGE:
        submission.package = {}


def _top(items: dict[str, _Item], stems: set[str]) -> str:
    """The prefix below which savepoint/ or a known notebook stands; the shallowest."""
    tops = []
    for path in items:
        parts = path.split("/")
        if PACKAGE in parts[:-1] and path.endswith(".py"):
            tops.append(parts[: parts.index(PACKAGE)])
        elif parts[-1].removesuffix(".ipynb") in stems:
            tops.append(parts[:-1])
    if not tops:
        return ""
    return "".join(f"{part}/" for part in min(tops, key=lambda t: (len(t), t)))


def _last(path: str) -> str:
    return _short(path.rsplit("/", 1)[-1])


def _short(name: str) -> str:
    return name if len(name) <= 60 else name[:57] + "..."
