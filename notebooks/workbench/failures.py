"""A run that is interrupted again and again: where its time goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Llama 3 405B: 419 unexpected interruptions in 54 days, on 16,384 GPUs.
# The Llama 3 Herd of Models, section 3.3.4, https://arxiv.org/abs/2407.21783
LLAMA3_MTBF = 54 * 24 * 3600 / 419  # seconds


@dataclass(frozen=True)
class Spent:
    """Shares of a run's time; together 1."""

    useful: float  # training that ended up in a checkpoint
    saving: float  # standing still for a complete save
    failures: float  # training and saving that a failure threw away, and restarts


def spent(
    interval: float,
    *,
    save_seconds: float,
    mtbf: float = LLAMA3_MTBF,
    restart_seconds: float = 0.0,
    failures: int = 20_000,
    seed: int = 0,
) -> Spent:
    """Where the time went, simulated over that many failures.

    Failures come at random, on average every ``mtbf`` seconds. Between two, the run trains
    ``interval`` seconds, stands still ``save_seconds`` to save, and so on; what was trained since
    the last complete save is lost.
    """
    lives = np.random.default_rng(seed).exponential(mtbf, failures)
    saves = np.floor(lives / (interval + save_seconds)).sum()
    total = lives.sum() + failures * restart_seconds
    useful, saving = float(saves * interval / total), float(saves * save_seconds / total)
    return Spent(useful, saving, 1 - useful - saving)


def useful(interval: float, **simulated: float) -> float:
    """The share of time that ends up in a checkpoint. The arguments are those of ``spent``."""
    return spent(interval, **simulated).useful
