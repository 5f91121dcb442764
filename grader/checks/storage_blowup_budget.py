"""Incident 06: what a run will have on the disk, and how often to save."""

from __future__ import annotations

import math
from typing import Any

from grader.checks.storage_blowup_sizes import MARGIN, megabytes
from grader.judge import Trial, Wrong, decides


@decides("storage_blowup.run_bytes")
def run_bytes(trial: Trial) -> str:
    width, last = int(trial.rng.integers(380, 440)), int(trial.rng.integers(2, 5))
    case = {"trait": "", "optimizer": "Adam", "width": width}
    every = int(trial.rng.integers(3, 6))
    plans: list[dict[str, Any]] = [
        {"epochs": int(trial.rng.integers(20, 60)), "keep_last": last, "keep_every": 0},
        {"epochs": int(trial.rng.integers(20, 60)), "keep_last": last, "keep_every": 1},
        {"epochs": 6 * every + 1, "keep_last": last, "keep_every": every},
        {"epochs": last - 1, "keep_last": last, "keep_every": 0},
        {"epochs": 12, "keep_last": last, "keep_every": 0, "mode": None},
        {"epochs": 0, "keep_last": last, "keep_every": every},
    ]
    weigh = {
        "full": {**case, "told": ""},
        "best": {key: value for key, value in case.items() if key != "optimizer"} | {"told": ""},
    }
    truth = trial.trusted("storage_blowup_sizes.weigh", {"cases": weigh}).facts["sizes"]
    said = trial.probe(
        "storage_blowup_sizes.run_sizes", {"case": case, "plans": plans}, seconds=30
    ).facts["sizes"]
    suspects = [_miscounts(plan, came, truth) for plan, came in zip(plans, said, strict=True)]
    for plan, came in zip(plans, said, strict=True):
        full, best = _counts(**plan)
        want = full * truth["full"] + best * truth["best"]
        if abs(came - want) <= MARGIN * want:
            continue
        told = ", ".join(f"{key}={value!r}" for key, value in plan.items())
        counted = (came - best * truth["best"]) / truth["full"]
        raise Wrong(
            f"run_nbytes(model, optimizer, {told}) returned {megabytes(came)}; on the disk there "
            f"would be {full} full checkpoints and {best} of weights, {megabytes(want)}. "
            f"(It counted about {counted:.2f} full ones.)",
            # Of the miscounts that give this number, the one that gives most of the others too.
            max(
                _miscounts(plan, came, truth) or ["counting"],
                key=lambda cause: sum(cause in found for found in suspects),
            ),
        )
    return f"{len(plans)} plans, each within 2 % of what would be on the disk."


def _counts(
    epochs: int, keep_last: int, keep_every: int, mode: str | None = "min"
) -> tuple[int, int]:
    """(full checkpoints, files of best weights) after ``epochs`` saves."""
    kept = {n for n in range(1, epochs + 1) if n > epochs - keep_last}
    kept |= {n for n in range(1, epochs + 1) if keep_every and n % keep_every == 0}
    return len(kept), int(mode is not None and epochs > 0)


def _miscounts(plan: dict[str, Any], came: float, size: dict[str, float]) -> list[str]:
    """Which miscounts give this number."""
    epochs, last, every = plan["epochs"], plan["keep_last"], plan["keep_every"]
    full, best = _counts(**plan)
    periodic = epochs // every if every else 0
    zero = {n for n in range(epochs) if n >= epochs - last or (every and n % every == 0)}
    miscounts = {
        "best_missing": full * size["full"],
        "best_uncounted_mode": full * size["full"] + size["best"],
        "best_full": (full + best) * size["full"],
        "room": (full + 1) * size["full"] + best * size["best"],
        "counted_twice": (min(last, epochs) + periodic) * size["full"] + best * size["best"],
        "every_epoch": epochs * size["full"] + best * size["best"],
        "too_few_epochs": last * size["full"] + best * size["best"],
        "from_zero": len(zero) * size["full"] + best * size["best"],
    }
    return [cause for cause, value in miscounts.items() if abs(came - value) < 0.05 * size["full"]]


@decides("storage_blowup.interval")
def interval(trial: Trial) -> str:
    pairs = []
    for _ in range(6):
        mtbf = float(10 ** trial.rng.uniform(2, 6))
        pairs.append((mtbf / float(10 ** trial.rng.uniform(1.8, 4)), mtbf))
    c, m = pairs[0]
    refused = [(0.0, m), (c, 0.0), (-c, m), (c, -m), (-c, -m), (0.0, 0.0)]
    not_numbers = [(math.nan, m), (c, math.nan)]
    asked = pairs + refused + not_numbers
    told = {"pairs": [[a.hex(), b.hex()] for a, b in asked]}
    found = trial.probe("storage_blowup_sizes.intervals", told).facts["found"]
    for (c, m), came in zip(pairs, found, strict=False):
        young = math.sqrt(2 * c * m)
        daly = young * (1 + math.sqrt(c / (2 * m)) / 3 + c / (18 * m)) - c
        call = f"best_interval({c:.4g}, {m:.4g})"
        if isinstance(came, list):
            raise Wrong(f"{call} raised {came[0]}.", "")
        value = float.fromhex(came)
        if min(abs(value / young - 1), abs(value / daly - 1)) > 1e-3:
            cause = "no_two" if abs(value / math.sqrt(c * m) - 1) < 1e-3 else "formula"
            cause = (
                "unit" if any(abs(value / young / f - 1) < 1e-3 for f in (60, 1 / 60)) else cause
            )
            raise Wrong(
                f"{call} returned {value:.6g}; Young's formula gives {young:.6g}, Daly's "
                f"{daly:.6g}.",
                cause,
            )
    for (c, m), came in zip(asked[len(pairs) :], found[len(pairs) :], strict=True):
        call = f"best_interval({c:.4g}, {m:.4g})"
        if isinstance(came, list) and "ValueError" in came[1] and came[0] != "AssertionError":
            continue
        what = f"raised {came[0]}" if isinstance(came, list) else "returned a number"
        cause = "nan" if math.isnan(c + m) else "not_positive"
        raise Wrong(f"{call}: expected a ValueError; it {what}.", cause)
    return f"{len(pairs)} intervals, {len(asked) - len(pairs)} refusals."
