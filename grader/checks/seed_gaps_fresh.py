"""Incident 02: evidence from an interpreter of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grader import wire
from grader.client import Report
from grader.evidence import Evidence
from grader.judge import Trial, Wrong

SECONDS = 60.0  # importing torch takes its time on a busy machine


def fresh(trial: Trial, probe: str, args: Mapping[str, Any]) -> Evidence:
    """What ``probe`` brings in an interpreter with drawn string hashes. Raises as trial.probe."""
    told = {"probe": probe, "args": dict(args), "hash_seed": int(trial.rng.integers(1, 2**32))}
    outer = trial.probe("seed_gaps_fresh.interpreter", told, seconds=SECONDS)
    if "fresh-report" not in outer.files:
        raise Wrong("In a new interpreter your package did not come to an end.")
    report: dict[str, Any] = {"stage": "", "outcome": "exited", **outer.facts}
    tensors = None
    for header, blobs in wire.parse(outer.files["fresh-report"]):
        report.update(header)
        tensors = blobs.get("tensors", tensors)
    facts = report.get("facts")
    return trial.evidence(
        Report(
            outcome=str(report["outcome"]),
            stage=str(report["stage"]),
            facts=facts if isinstance(facts, dict) else {},
            tensors=tensors,
            details=report,
        )
    )
