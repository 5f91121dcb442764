"""The judge's side of a probe: start servers, send requests, keep the time.

``ForkServer`` and ``SpawnWorkers`` speak the same protocol; tests run every check on both.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from grader import attendant, lighter, wire

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}  # a server's
SECONDS = float(os.environ.get("BIT_FOR_BIT_SECONDS", "10"))  # wall clock, one probe
MEMORY = 1 << 30  # bytes a probe may take beyond what the warm server has
START_SECONDS = 120.0
COMPILER = 15.0  # seconds a spawned worker may take to import torch's compiler, where asked to


class GraderFault(Exception):
    """Something of ours failed. Never the learner's zero."""


@dataclass(frozen=True)
class Report:
    """How one rank of a probe ended, and what it left. ``outcome`` is one of "ok", "raised",
    "exited", "timed out", "too much output", "out of memory"."""

    outcome: str
    stage: str
    facts: dict[str, Any]
    tensors: bytes | None
    details: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict, repr=False)
    listing: list[list[Any]] = field(default_factory=list)


class Runner(Protocol):
    """Something that runs probes."""

    def run(self, request: dict[str, Any], blobs: Mapping[str, bytes]) -> list[Report]: ...

    def close(self) -> None: ...


def server_command(*options: str) -> list[str]:
    """How a server is started."""
    # -P: the working directory may be a submission's, and must not shadow a module.
    return [sys.executable, "-P", "-B", "-m", "grader.server", *options]


class _Process:
    """A server process and a thread that reads its messages (select knows no pipes on Windows)."""

    def __init__(
        self, *options: str, command: list[str] | None = None, pass_fds: tuple[int, ...] = ()
    ) -> None:
        self.output, self.printed = b"", 0
        self.process = subprocess.Popen(
            command or server_command(*options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
            # A session of its own: the kernel's Interrupt goes to the kernel's process group.
            start_new_session=True,
            env={**os.environ, **ENVIRONMENT},
        )
        self._messages: queue.Queue[Any] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        threading.Thread(target=self._drain, daemon=True).start()
        self._ready = False

    def _read(self) -> None:
        try:
            while (message := wire.receive(self.process.stdout)) is not None:
                self._messages.put(message)
        except (wire.WireError, ValueError, OSError):
            pass
        self._messages.put(None)

    def _drain(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            while data := self.process.stderr.read1(1 << 16):
                self.printed += len(data)
                self.output = (self.output + data)[-attendant.KEPT_OUTPUT :]
                if self.printed > attendant.MAX_OUTPUT:
                    self.process.kill()

    def wait_ready(self) -> None:
        if not self._ready:
            message = self.get(START_SECONDS)
            if message is None:
                said = self.output.decode(errors="replace").strip()
                raise GraderFault(f"the grader's server did not start: {said[-1500:]}")
            self._ready = True

    def send(self, header: Mapping[str, Any], blobs: Mapping[str, bytes]) -> None:
        try:
            self.process.stdin.write(wire.COMPILED if lighter.asks(header) else wire.PLAIN)
            wire.send(self.process.stdin, header, blobs)
        except OSError as error:
            raise GraderFault(f"the grader's server has gone: {error}") from None

    def get(self, seconds: float) -> Any:
        """The next message; None if the process ended, TimeoutError after ``seconds``."""
        try:
            message = self._messages.get(timeout=max(seconds, 0))
        except queue.Empty:
            raise TimeoutError from None
        if message is None:
            self._messages.put(None)  # whoever asks next need not wait to learn it
        return message

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()


def reports(message: tuple[dict[str, Any], dict[str, bytes]], ranks: int) -> list[Report]:
    """The reports of ``ranks`` ranks in a fork server's answer."""
    header, blobs = message
    if "lost" in header:
        # The probe ended the process that watched it: the one thing known is that it did.
        ended = {"outcome": "exited", "exit_code": header["lost"], "output": ""}
        return [_report(ended, None, {}, []) for _ in range(ranks)]
    files = {k.removeprefix("file/"): v for k, v in blobs.items() if k.startswith("file/")}
    return [
        _report(rank, blobs.get(f"tensors/{number}"), files, header["listing"])
        for number, rank in enumerate(header["ranks"])
    ]


class ForkServer:
    """One warm server that forks a process for each probe: milliseconds."""

    def __init__(self) -> None:
        self._server = _Process()

    def wait_ready(self) -> None:
        """Until the server is warm. Raises GraderFault if it does not come to that."""
        self._server.wait_ready()

    def run(self, request: dict[str, Any], blobs: Mapping[str, bytes]) -> list[Report]:
        self._server.wait_ready()
        self._server.send(request, blobs)
        try:
            # The server keeps the probe's time; this only guards against the server itself.
            message = self._server.get(request["seconds"] + 30)
        except TimeoutError:
            message = None
        if message is None:
            self.close()
            self._server = _Process()
            raise GraderFault("the grader's server stopped answering and was started anew")
        return reports(message, request.get("world_size", 1))

    def close(self) -> None:
        self._server.close()


class SpawnWorkers:
    """A pre-warmed process for each probe, used once: for systems where fork is not safe."""

    def __init__(self, standby: int = 1) -> None:
        self._standby = [_Process("--single") for _ in range(standby)]

    def run(self, request: dict[str, Any], blobs: Mapping[str, bytes]) -> list[Report]:
        ranks = request.get("world_size", 1)
        while len(self._standby) < ranks + 1:
            self._standby.append(_Process("--single"))
        workers = [self._standby.pop(0) for _ in range(ranks)]
        work = Path(tempfile.mkdtemp(prefix="probe-")).resolve()
        try:
            attendant.fill(work, dict(blobs))
            for rank, worker in enumerate(workers):
                worker.wait_ready()
                worker.send({**request, "rank": rank, "cwd": str(work)}, blobs)
            deadline = time.monotonic() + request["seconds"] + COMPILER * lighter.asks(request)
            ended = [self._follow(worker, deadline) for worker in workers]
            files, listing = attendant.collect(work, request.get("max_files_bytes", 64 << 20))
        finally:
            for worker in workers:
                worker.process.kill()
                worker.close()
            shutil.rmtree(work, ignore_errors=True)
        files = {name.removeprefix("file/"): data for name, data in files.items()}
        return [_report(rank, tensors, files, listing) for rank, tensors in ended]

    @staticmethod
    def _follow(worker: _Process, deadline: float) -> tuple[dict[str, Any], bytes | None]:
        report: dict[str, Any] = {"stage": ""}
        tensors = None
        while "outcome" not in report:
            try:
                message = worker.get(deadline - time.monotonic())
            except TimeoutError:
                report["outcome"] = "timed out"
                break
            if message is None:
                code = worker.process.wait()
                too_much = worker.printed > attendant.MAX_OUTPUT
                report |= {"outcome": "too much output" if too_much else "exited"}
                report |= {"exit_code": code}
                break
            report.update(message[0])
            tensors = message[1].get("tensors", tensors)
        report["output"] = worker.output.decode(errors="replace")
        return report, tensors

    def close(self) -> None:
        for worker in self._standby:
            worker.process.kill()
            worker.close()


def start_runner() -> Runner:
    """The fork server where fork is safe (Linux), spawned workers elsewhere.

    ``BIT_FOR_BIT_RUNNER=spawn`` asks for the latter anywhere; ``BIT_FOR_BIT_RANKS=torchrun`` has
    probes of several ranks started by torchrun.
    """
    wanted = os.environ.get("BIT_FOR_BIT_RUNNER", "fork" if sys.platform == "linux" else "spawn")
    runner = ForkServer() if wanted == "fork" else SpawnWorkers()
    if os.environ.get("BIT_FOR_BIT_RANKS") == "torchrun":
        from grader.torchrun import TorchrunRanks

        return TorchrunRanks(runner)
    return runner


def _report(
    rank: dict[str, Any], tensors: bytes | None, files: dict[str, bytes], listing: list[list[Any]]
) -> Report:
    facts = rank.get("facts")
    return Report(
        outcome=str(rank.get("outcome")),
        stage=str(rank.get("stage", "")),
        facts=facts if isinstance(facts, dict) else {},
        tensors=tensors,
        details=rank,
        files=files,
        listing=listing,
    )
