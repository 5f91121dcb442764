"""Probes of several ranks started by a real torchrun: slower, and the same verdicts.

    course check ddp_race --torchrun

torchrun starts this module once for each rank: ``python -m grader.torchrun DIRECTORY``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grader import attendant, lighter, server, wire
from grader.client import Report, Runner, _report

START = 60.0  # seconds that torchrun and its ranks may take to import torch


class TorchrunRanks:
    """A runner that hands requests of several ranks to torchrun, and all others to ``runner``."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def run(self, request: dict[str, Any], blobs: Mapping[str, bytes]) -> list[Report]:
        ranks = request.get("world_size", 1)
        # "independent" ranks end one by one; torchrun would end all at the first.
        if ranks == 1 or request.get("independent"):
            return self._runner.run(request, blobs)
        from workbench.launch import torchrun

        place = Path(tempfile.mkdtemp(prefix="torchrun-")).resolve()
        work = place / "work"
        work.mkdir()
        try:
            attendant.fill(work, dict(blobs))
            with (place / "request").open("wb") as file:
                wire.send(file, {**request, "cwd": str(work)}, blobs)
            ended = torchrun(
                *("-m", "grader.torchrun", str(place)),
                nproc=ranks,
                timeout=request["seconds"] + START,
                env={"PYTHONSAFEPATH": "1", "PYTHONDONTWRITEBYTECODE": "1"},
                cwd=str(place),
            )
            reports = [_read(place / f"rank-{rank}") for rank in range(ranks)]
            files, listing = attendant.collect(work, request.get("max_files_bytes", 64 << 20))
        finally:
            shutil.rmtree(place, ignore_errors=True)
        files = {name.removeprefix("file/"): data for name, data in files.items()}
        how = "timed out" if ended.returncode is None else "exited"
        for report, _ in reports:
            report.setdefault("outcome", how)
            report.setdefault("exit_code", ended.returncode)
            report["output"] = ended.output[-attendant.KEPT_OUTPUT :]
        return [_report(report, tensors, files, listing) for report, tensors in reports]

    def close(self) -> None:
        self._runner.close()


def _read(path: Path) -> tuple[dict[str, Any], bytes | None]:
    """What one rank wrote: its last words, and its tensors."""
    report: dict[str, Any] = {"stage": ""}
    tensors = None
    for header, blobs in wire.parse(path.read_bytes() if path.exists() else b""):
        report.update(header)
        tensors = blobs.get("tensors", tensors)
    return report, tensors


def main() -> None:
    """One rank: run the probe of the request that lies in the directory."""
    place, rank = Path(sys.argv[1]), int(os.environ["RANK"])
    with (place / "request").open("rb") as file:
        message = wire.receive(file)
    if message is None:
        sys.exit("no request")
    header, blobs = message
    server.warm()
    if lighter.asks(header):
        lighter.load_compiler()
    from grader import child

    # A probe may take away its own right to write files: another process writes for it.
    writing, scribe = _scribe(place / f"rank-{rank}")
    os.chdir(header["cwd"])
    attendant.limit(header)
    with os.fdopen(writing, "wb") as out:
        child.run({**header, "rank": rank}, blobs, out)
    sys.stdout.flush()
    os.waitpid(scribe, 0)
    os._exit(0)


def _scribe(path: Path) -> tuple[int, int]:
    """(a pipe to write to, the id of a process that copies it into the file)."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe, path.open("wb") as file:
            shutil.copyfileobj(pipe, file)
        os._exit(0)
    os.close(reading)
    return writing, pid


if __name__ == "__main__":
    main()
