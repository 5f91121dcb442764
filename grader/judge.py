"""The judge: draws the inputs, has the probes run, compares what came out. Runs no learner code.

A check is a function in grader/checks that is given a ``Trial``. It returns a sentence when all
is well, and raises ``Wrong`` when not; everything else that can happen is handled here, once.
"""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from grader import client, explain, registry, scratch
from grader.client import GraderFault, Report, Runner
from grader.evidence import Evidence, Malformed, pack
from grader.registry import Check
from grader.verdict import Status, Verdict

CheckFunction = Callable[["Trial"], str]
_FUNCTIONS: dict[str, CheckFunction] = {}


class Wrong(Exception):
    """The evidence contradicts the contract. ``cause`` names the likeliest misconception."""

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.message, self.cause = message, cause


class Failed(Exception):
    """A probe did not bring evidence: it raised, ended, or ran into a limit."""

    def __init__(self, report: Report) -> None:
        super().__init__(report.outcome)
        self.report = report


def decides(check_id: str) -> Callable[[CheckFunction], CheckFunction]:
    """Register the function that decides the check ``check_id``."""

    def register(function: CheckFunction) -> CheckFunction:
        _FUNCTIONS[check_id] = function
        return function

    return register


class Trial:
    """One check on one package: its draws, and the processes it may ask for."""

    def __init__(
        self,
        check: Check,
        package: Path,
        seed: int,
        runner: Runner,
        trusted_runner: Runner | None = None,
        answer: Any = None,
    ) -> None:
        self.check, self.package, self.seed, self.answer = check, package, seed, answer
        # Every check has its own stream, so that one can be repeated without the others.
        self.rng = np.random.default_rng([seed, zlib.crc32(check.id.encode())])
        self._runner, self._trusted = runner, trusted_runner or runner
        self.notes: list[str] = []

    def draw_seed(self) -> int:
        return int(self.rng.integers(1, 2**31))

    def probe(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        tensors: Mapping[str, np.ndarray] | None = None,
        files: Mapping[str, bytes] | None = None,
        **limits: Any,
    ) -> Evidence:
        """Run a probe beside learner code, in a fresh process. Raises Failed."""
        report = self.attempt(name, args, tensors=tensors, files=files, **limits)[0]
        return self.evidence(report)

    def attempt(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        tensors: Mapping[str, np.ndarray] | None = None,
        files: Mapping[str, bytes] | None = None,
        world_size: int = 1,
        **limits: Any,
    ) -> list[Report]:
        """Run a probe on ``world_size`` ranks, and say how each ended, whatever that was."""
        request = _request(name, args, world_size, limits)
        request["savepoint"] = str(self.package)
        return self._runner.run(request, _blobs(tensors, files))

    def probe_each(self, runs: Sequence[Run]) -> list[Evidence]:
        """As ``probe``, for several runs in one process: a fork costs as much as a short run."""
        return self.evidence_of_each(self.attempt(**in_turn(runs))[0], len(runs))

    def trusted_each(self, runs: Sequence[Run]) -> list[Evidence]:
        """As ``trusted``, for several runs in one process."""
        return self.trusted(**in_turn(runs)).parts(len(runs))

    def evidence_of_each(self, report: Report, runs: int) -> list[Evidence]:
        """As ``evidence``, of a process that was asked ``in_turn`` for several ``runs``."""
        return self.evidence(report).parts(runs)

    def evidence(self, report: Report) -> Evidence:
        """The evidence in a report. Raises Failed if it holds none."""
        if report.outcome != "ok":
            raise Failed(report)
        try:
            evidence = Evidence.of(report)
        except ValueError as error:
            raise Wrong(f"The process sent back something that is not tensors ({error}).") from None
        self.notes += [note for note in evidence.notes if note not in self.notes]
        return evidence

    def trusted(
        self,
        name: str,
        args: Mapping[str, Any] | None = None,
        *,
        tensors: Mapping[str, np.ndarray] | None = None,
        files: Mapping[str, bytes] | None = None,
        world_size: int = 1,
        **limits: Any,
    ) -> Evidence:
        """Run trusted code, without the learner's, in a process of its own."""
        request = _request(name, args, world_size, limits)
        report = self._trusted.run(request, _blobs(tensors, files))[0]
        if files and report.outcome == "timed out":  # a busy machine, or a file that takes for ever
            request = {**request, "seconds": 3 * request["seconds"]}
            report = self._trusted.run(request, _blobs(tensors, files))[0]
        if files and _choked(report):
            raise Wrong(
                "A file that your code wrote cannot be opened within a probe's time and memory "
                f"({report.outcome}), though what it should hold is small."
            )
        if report.outcome != "ok":
            raise GraderFault(f"{name}: {report.outcome} {report.details}")
        return Evidence.of(report)


@dataclass
class Run:
    """One of several runs in one process: of the ``probe``."""

    probe: str
    args: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def in_turn(runs: Sequence[Run]) -> dict[str, Any]:
    """What to ask of ``attempt`` or ``trusted`` to have one process do all ``runs``."""

    def joined(parts: list[Mapping[str, Any]]) -> dict[str, Any]:
        return {f"{n}/{key}": value for n, part in enumerate(parts) for key, value in part.items()}

    return {
        "name": "in_turn.runs",
        "args": {"each": [[run.probe, dict(run.args)] for run in runs]},
        "tensors": joined([run.tensors for run in runs]),
        "files": joined([run.files for run in runs]),
    }


def _choked(report: Report) -> bool:
    """Whether a trusted process ran into its limits: over a file that a learner's code wrote."""
    too_much = "MemoryError" in (report.details.get("bases") or [])
    return too_much or report.outcome in ("timed out", "out of memory")


def _request(
    name: str, args: Mapping[str, Any] | None, world_size: int, limits: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "probe": name,
        "args": dict(args or {}),
        "world_size": world_size,
        "seconds": client.SECONDS,
        "memory": client.MEMORY,
        **limits,
    }


def _blobs(
    tensors: Mapping[str, np.ndarray] | None, files: Mapping[str, bytes] | None
) -> dict[str, bytes]:
    blobs = {f"file/{name}": data for name, data in (files or {}).items()}
    if tensors:
        blobs["tensors"] = pack(tensors)
    return blobs


def load_checks() -> dict[str, CheckFunction]:
    """Every check's function, by id."""
    from grader import checks

    for module in pkgutil.iter_modules(checks.__path__):
        importlib.import_module(f"grader.checks.{module.name}")
    return _FUNCTIONS


def new_seed() -> int:
    return secrets.randbelow(10**6)


def _midsentence(title: str) -> str:
    """``title`` as it reads after a colon; names such as SGD and AdamW keep their capitals."""
    first = title.split()[0]
    return title if any(c.isupper() for c in first[1:]) else title[0].lower() + title[1:]


@contextlib.contextmanager
def snapshot(package: Path) -> Iterator[Path]:
    """A copy of the package's directory to run probes on.

    From there no relative path leads to a class's gradebook, and an edit that is made meanwhile
    does not meet half of the probes.
    """
    with scratch.directory("package") as folder:
        copy = Path(folder).resolve()
        ignore = shutil.ignore_patterns("__pycache__", ".*")
        shutil.copytree(package / "savepoint", copy / "savepoint", ignore=ignore)
        yield copy


def judge(
    check: Check,
    package: Path,
    runner: Runner,
    *,
    trusted_runner: Runner | None = None,
    seed: int | None = None,
    answer: Any = None,
) -> Verdict:
    """Decide one check. ``package`` is the directory that holds ``savepoint``. Never raises."""
    seed = new_seed() if seed is None else seed
    started = time.perf_counter()

    def verdict(status: Status, message: str, hint: str | None = None) -> Verdict:
        points = check.points if status is Status.PASSED else 0.0
        seconds = time.perf_counter() - started
        return Verdict(check.id, status, points, check.points, message, hint, seed, seconds)

    if check.kind == "prediction":
        return verdict(*explain.prediction(check, answer))
    trial = None
    try:
        with snapshot(package) as copy:
            trial = Trial(check, copy, seed, runner, trusted_runner, answer)
            message = load_checks()[check.id](trial)
        notes = "".join(f"\nNote: {note}." for note in trial.notes)
        return verdict(Status.PASSED, message + notes)
    except Wrong as wrong:
        notes = "".join(f"\nNote: {note}." for note in trial.notes)
        misconceptions = registry.incidents()[check.incident].misconceptions
        code = f"{check.id}.{wrong.cause}" if wrong.cause else check.id
        sentence = misconceptions[wrong.cause] if wrong.cause else ""
        message = wrong.message + ("\n" + sentence if sentence else "") + notes
        return verdict(Status.WRONG, message, code)
    except Failed as failed:
        status, message = explain.failure(failed.report)
        if status is Status.NOT_IMPLEMENTED:
            message += f"\nThis check will ask: {_midsentence(check.title)}."
        return verdict(status, message, check.id if status is not Status.GRADER_FAULT else None)
    except Malformed as error:
        said = f"What your package's process sent back is not this check's evidence: {error}."
        return verdict(Status.WRONG, said, check.id)
    except GraderFault as fault:
        return verdict(Status.GRADER_FAULT, explain.grader_fault(str(fault), check.id, seed))
    except Exception as error:
        text = f"{type(error).__name__}: {error}"
        return verdict(Status.GRADER_FAULT, explain.grader_fault(text, check.id, seed))
