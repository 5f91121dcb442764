"""How a probe that brought no evidence is told to the learner: what was called, what came of it."""

from __future__ import annotations

from typing import Any

from grader.client import Report
from grader.registry import Check
from grader.verdict import Status

MEMORY_TEXT = ("can't allocate memory", "not enough memory", "Cannot allocate memory")


def failure(report: Report) -> tuple[Status, str]:
    """(status, message) for a report without evidence."""
    details, stage = report.details, report.stage
    during = f"During {stage}" if stage else "In your package"
    said = _last_words(details.get("output", ""))
    if report.outcome == "timed out":
        return (
            Status.TIMED_OUT,
            f"{during}: no end in sight, so the process was stopped.\n"
            "Look for a loop that never ends, or for a call that waits." + said,
        )
    if report.outcome == "out of memory":
        return (
            Status.OUT_OF_MEMORY,
            f"{during}: the processes that your code started wanted too much memory together.",
        )
    if report.outcome == "too much output":
        return (
            Status.CRASHED,
            f"{during}: your code printed more than 16 MB, and the process was stopped.",
        )
    if report.outcome == "exited":
        return Status.CRASHED, _exited(during, details.get("exit_code")) + said
    if report.outcome == "raised":
        return _raised(during, stage, details)
    return Status.GRADER_FAULT, f"An unknown outcome: {report.outcome!r}."


def _exited(during: str, code: Any) -> str:
    if isinstance(code, int) and code < 0:
        import signal

        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = f"signal {-code}"
        return f"{during}: the process was ended by {name}."
    return (
        f"{during}: the process ended by itself (exit status {code}) before it was done.\n"
        "A function of yours, or something it calls, ends Python; let it return or raise instead."
    )


def _raised(during: str, stage: str, details: dict[str, Any]) -> tuple[Status, str]:
    kind, text = str(details.get("type")), str(details.get("text", ""))
    bases = details.get("bases") or []
    at = _where(details.get("where"))
    first = text.splitlines()[0] if text else ""
    if "NotImplementedError" in bases:
        return Status.NOT_IMPLEMENTED, f"Not yet: {first or stage}."
    missing = str(details.get("missing_module") or "")
    if "ModuleNotFoundError" in bases and missing.startswith("savepoint"):
        name = missing.replace(".", "/")
        return Status.NOT_IMPLEMENTED, f"Not yet: there is no {name}.py here."
    if "MemoryError" in bases or any(sign in text for sign in MEMORY_TEXT):
        return Status.OUT_OF_MEMORY, f"{during}: your code wanted more memory than 1 GB.{at}"
    if kind == "SystemExit":
        return (
            Status.CRASHED,
            f"{during}: your code called sys.exit({first}).{at}\n"
            "A function that meets trouble raises; only the program around it may exit.",
        )
    if "SyntaxError" in bases:
        return Status.CRASHED, f"Python cannot read your file: {first}.{at}"
    if "ImportError" in bases:
        return Status.CRASHED, f"{during}: {first}.{at}"
    if "KeyboardInterrupt" in bases:
        return Status.CRASHED, f"{during}: KeyboardInterrupt.{at}"
    if kind == "TypeError" and not at and "argument" in text:
        return (
            Status.WRONG,
            f"{during}: {first}.\nThe docstring's signature is the contract: keep it as it is.",
        )
    return Status.WRONG, f"{during}: {kind}: {first}{at}"


def _where(where: Any) -> str:
    """``\\n  checkpoint.py, line 12, in save: code``, for the learner's innermost frame."""
    if not isinstance(where, dict):
        return ""
    inside = f", in {where.get('function')}" if where.get("function") else ""
    return f"\n{where.get('file')}, line {where.get('line')}{inside}:  {where.get('code')}"


def _last_words(output: Any) -> str:
    lines = [line for line in str(output).strip().splitlines() if line.strip()]
    return f"\nIt printed last: {lines[-1][:200]}" if lines else ""


def grader_fault(text: str, check: str, seed: int) -> str:
    return (
        f"The grader failed, not you; this is never recorded as a zero.\n{text[:1500]}\n"
        f"Please report it with the output of: course check {check} --seed {seed}"
    )


def prediction(check: Check, answer: Any) -> tuple[Status, str]:
    """Credit for committing to one of the options, right or wrong."""
    if answer in (None, "", "?"):
        return (
            Status.NOT_IMPLEMENTED,
            f"Not yet: put {', '.join(check.options)} in the cell before the check, as text, and "
            "run it.",
        )
    if not isinstance(answer, str) or answer.strip().lower() not in check.options:
        return (
            Status.WRONG,
            f"Expected one of {', '.join(check.options)} as text; got {answer!r:.80}.",
        )
    return Status.PASSED, f"Committed to {answer.strip().lower()}. Now see what happens."
