"""A run that is interrupted again and again: how much of its time was not wasted."""

from __future__ import annotations

import numpy as np

# Llama 3 405B: 419 unexpected interruptions in 54 days, on 16,384 GPUs.
# The Llama 3 Herd of Models, section 3.3.4, https://arxiv.org/abs/2407.21783
LLAMA3_MTBF = 54 * 24 * 3600 / 419  # seconds


def useful(
    interval: float,
    *,
    save_seconds: float,
    mtbf: float = LLAMA3_MTBF,
    restart_seconds: float = 0.0,
    failures: int = 20_000,
    seed: int = 0,
) -> float:
    """The share of time that ends up in a checkpoint, simulated over that many failures.

    Failures come at random, on average every ``mtbf`` seconds. Between two, the run trains
    ``interval`` seconds, stands still ``save_seconds`` to save, and so on; what was trained since
    the last complete save is lost.
    """
    lives = np.random.default_rng(seed).exponential(mtbf, failures)
    saved = np.floor(lives / (interval + save_seconds))
    return float(saved.sum() * interval / (lives.sum() + failures * restart_seconds))
