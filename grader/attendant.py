"""One request: fork the probe's processes, keep their time, collect what they left, report.

In a jail a fork of the server does this for each request, and ends. What a probe inherits is then
what the server had when it was warm, and its own request. Of an earlier one there is nothing: in a
server that had handled it, its files and its expected values would lie in freed memory still.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from grader import jailed, wire

MAX_OUTPUT = 16 << 20  # bytes a probe may print before it is stopped
KEPT_OUTPUT = 4 << 10  # bytes of that which are kept, from the end
MAX_FILES = 200
PATIENCE = 3  # times its seconds that a probe is given more, at most, where it had no processor
CROWD = 16  # threads; an honest rank has a handful
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 1, 4, 36


def prctl(option: int, value: int) -> None:
    """Linux's prctl; elsewhere nothing."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def answer(requests: int, reports: Any) -> None:
    """Read one request, run it, send the report."""
    with os.fdopen(requests, "rb", closefd=False) as stream:
        message = wire.receive(stream)
        if message is not None:
            wire.send(reports, *_run(*message, stream))


def _run(
    header: dict[str, Any], blobs: dict[str, bytes], requests: Any
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Fork a process per rank, wait for them within the limits, collect what they left."""
    started = time.monotonic()
    places = [work := Path(tempfile.mkdtemp(prefix="probe-")).resolve()]
    try:
        fill(work, blobs)
        header = {**header, "cwd": str(work)}
        if any(name.startswith("package/") for name in blobs):
            # A jail has no directory of the submission's: the package comes with the request.
            places.append(package := Path(tempfile.mkdtemp(prefix="package-")).resolve())
            fill(package, blobs, "package/")
            header["savepoint"] = str(package)
        ranks = [_Rank(header, blobs, rank) for rank in range(header.get("world_size", 1))]
        _watch(ranks, header["seconds"], requests, header.get("total_memory"))
        for rank in ranks:
            rank.end()
        outlived = kill_descendants()
        files, listing = collect(work, header.get("max_files_bytes", 64 << 20))
    finally:
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
    reports: dict[str, Any] = {"ranks": [], "listing": listing}
    if jailed.inside():
        reports |= {"clean": jailed.is_clean(), "outlived": outlived}
    for number, rank in enumerate(ranks):
        report, tensors = rank.report()
        reports["ranks"].append(report)
        if tensors is not None:
            files[f"tensors/{number}"] = tensors
    reports["seconds"] = time.monotonic() - started
    return reports, files


class _Rank:
    """One forked process: its pipes, and what has come through them so far."""

    def __init__(self, header: dict[str, Any], blobs: dict[str, bytes], rank: int) -> None:
        evidence_in, evidence_out = os.pipe()
        output_in, output_out = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _become_probe({**header, "rank": rank}, blobs, evidence_out, output_out)
        os.close(evidence_out)
        os.close(output_out)
        self.evidence, self.output = bytearray(), bytearray()
        self.printed = 0
        self.open = {evidence_in: self._take_evidence, output_in: self._take_output}
        self.stopped: str | None = None
        self.status: int | None = None
        # Readable once the process has ended: nobody has to look every few milliseconds.
        self.ending: int | None = None
        with contextlib.suppress(AttributeError, OSError):  # Linux 5.3
            self.ending = os.pidfd_open(self.pid)

    def _take_evidence(self, data: bytes) -> None:
        self.evidence += data
        if len(self.evidence) > wire.MAX_MESSAGE:
            self.stop("too much output")

    def _take_output(self, data: bytes) -> None:
        self.printed += len(data)
        self.output = (self.output + data)[-KEPT_OUTPUT:]
        if self.printed > MAX_OUTPUT:
            self.stop("too much output")

    def stop(self, why: str) -> None:
        self.stopped = self.stopped or why
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> bool:
        """Whether the process has ended."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
        return self.status is not None

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what it started in its own process group
        if self.status is None:
            self.stop("timed out")
            self.status = os.waitpid(self.pid, 0)[1]
        for descriptor in self.open:
            os.close(descriptor)
        if self.ending is not None:
            os.close(self.ending)

    def report(self) -> tuple[dict[str, Any], bytes | None]:
        report: dict[str, Any] = {"stage": ""}
        tensors = None
        for header, blobs in wire.parse(bytes(self.evidence)):
            report.update(header)
            tensors = blobs.get("tensors", tensors)
        if self.stopped:
            report["outcome"] = self.stopped
        elif "outcome" not in report:
            code = os.waitstatus_to_exitcode(self.status or 0)
            report["outcome"] = "exited"
            report["exit_code"] = code
        report["output"] = bytes(self.output).decode(errors="replace")
        return report, tensors


def _watch(ranks: list[_Rank], seconds: float, requests: Any, memory: int | None) -> None:
    """Read the ranks' pipes until all have ended, or have had their ``seconds``."""
    started = time.monotonic()
    deadline = started + seconds
    watch = jailed.Watch(memory)
    while True:
        if jailed.inside() and select.select([requests], [], [], 0)[0]:
            os._exit(0)  # nobody waits for this answer any more; the server finds that out next
        if watch.over(deadline):
            for rank in ranks:
                rank.stop("out of memory")
        polled = [rank.poll() for rank in ranks]
        ended = all(polled)
        left = deadline - time.monotonic()
        if left <= 0 and not ended:
            deadline = started + seconds + min(_starved(ranks), PATIENCE * seconds)
            left = deadline - time.monotonic()
        if left <= 0 and not ended:
            for rank in ranks:
                rank.stop("timed out")
        descriptors = {fd: take for rank in ranks for fd, take in rank.open.items()}
        # After the end only what is already in the pipes: a daemon may hold them open for ever.
        wait = 0 if ended else max(0.0, min(0.02, left))
        endings = [r.ending for r in ranks if r.status is None and r.ending is not None]
        ready, _, _ = select.select([*descriptors, *endings], [], [], wait)
        for fd in descriptors.keys() & ready:
            data = os.read(fd, 1 << 16)
            if data:
                descriptors[fd](data)
            else:
                for rank in ranks:
                    if fd in rank.open:
                        del rank.open[fd]
                        os.close(fd)
        if ended and (not ready or left <= 0):
            return


def _starved(ranks: list[_Rank]) -> float:
    """Seconds that the ranks waited for a processor, in a jail: beside it may run a submission that
    takes what it can get. 0 where it is a crowd of their own that they waited for.
    """
    if not jailed.inside() or jailed.tasks() > CROWD * len(ranks):
        return 0.0
    waited = 0
    for rank in ranks:
        with contextlib.suppress(OSError, ValueError, IndexError):
            waited += int(Path(f"/proc/{rank.pid}/schedstat").read_text().split()[1])
    return waited / 1e9


def _become_probe(header: dict[str, Any], blobs: dict[str, bytes], evidence: int, output: int):
    """In the forked child: cut every tie to the server, run, and leave by _exit."""
    code = 70
    try:
        os.setpgid(0, 0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        prctl(PR_SET_DUMPABLE, 1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.dup2(evidence, 3)
        os.closerange(4, 4096)
        sys.stdout = os.fdopen(1, "w", buffering=1, errors="replace", closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, errors="replace", closefd=False)
        os.chdir(header["cwd"])
        limit(header)
        from grader import child

        with os.fdopen(3, "wb") as out:
            child.run(header, blobs, out)
        sys.stdout.flush()
        code = 0
    finally:
        os._exit(code)


def limit(header: dict[str, Any]) -> None:
    """Bound memory, file size and core dumps, where the system can."""
    try:
        import resource
    except ImportError:  # Windows
        return
    in_use = 0
    with contextlib.suppress(OSError, ValueError):
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limits = [(resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, header.get("max_file", 256 << 20))]
    if in_use:
        limits.append((resource.RLIMIT_AS, in_use + header["memory"]))
    for kind, value in limits:
        _, hard = resource.getrlimit(kind)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, hard))
    if jailed.inside():
        jailed.bind_probe(header["seconds"])
    # Past its file-size limit a write should fail with EFBIG, as on a full disk, not kill.
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def kill_descendants() -> bool:
    """Kill what outlived a probe; in a jail, say whether anything did.

    As a subreaper, this process has become its parent.
    """
    if jailed.inside():
        return jailed.kill_all()
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    for _ in range(50):
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        try:
            left = [int(pid) for pid in children.read_text().split()]
        except OSError:  # not Linux
            break
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    return False


def fill(work: Path, blobs: dict[str, bytes], prefix: str = "file/") -> None:
    """Write the request's ``file/<name>`` blobs into the probe's directory."""
    for name, data in blobs.items():
        if name.startswith(prefix):
            target = work / name.removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)


def collect(work: Path, budget: int) -> tuple[dict[str, bytes], list[list[Any]]]:
    """(regular files as blobs, listing) of what the probe left, empty directories included.

    Follows no link, opens no pipe.
    """
    files: dict[str, bytes] = {}
    listing: list[list[Any]] = []
    for folder, names, leaves in os.walk(work, followlinks=False):
        names[:] = sorted(name for name in names if name != ".no-bytecode")
        if not names and not leaves and folder != str(work):
            mode = stat.S_IMODE(Path(folder).lstat().st_mode)
            listing.append([Path(folder).relative_to(work).as_posix(), "directory", 0, mode])
        for leaf in sorted(leaves):
            path = Path(folder, leaf)
            info = path.lstat()
            name = path.relative_to(work).as_posix()
            kind = "file" if stat.S_ISREG(info.st_mode) else "other"
            listing.append([name, kind, info.st_size, stat.S_IMODE(info.st_mode)])
            if kind == "file" and info.st_size <= budget:
                budget -= info.st_size
                with contextlib.suppress(OSError):
                    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                    with os.fdopen(descriptor, "rb") as stream:
                        files[f"file/{name}"] = stream.read()
            if len(listing) >= MAX_FILES:
                return files, listing
    return files, listing
