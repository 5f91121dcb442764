"""A moment of a run, kept in memory: to ask what happens when one component is not brought back.

This is a laboratory tool: it dies with the process. A checkpoint is a file, and yours to write.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import torch

Parts = dict[str, Any]  # name -> object with state_dict(), for example model, optimizer, scheduler

GENERATORS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "python": (random.getstate, random.setstate),
    "numpy": (np.random.get_state, np.random.set_state),
    "torch": (torch.get_rng_state, torch.set_rng_state),
}


class Moment:
    """Everything that a run consists of, at the moment it is taken."""

    def __init__(self, parts: Parts) -> None:
        self._states = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
        self._generators = {name: get() for name, (get, _) in GENERATORS.items()}

    def restore(self, parts: Parts, *, leave_out: Collection[str] = ()) -> None:
        """Bring everything back into ``parts``, in place, but what is left out.

        What is left out stays as a new process has it: objects as they were built, generators
        as they stand. Names are the parts' and "python", "numpy", "torch"; and the optimizer's
        two halves, "moments" (what it remembers) and "learning_rate" (what it does next).
        """
        for name, state in self._states.items():
            if name not in leave_out:
                fresh = [group["lr"] for group in getattr(parts[name], "param_groups", [])]
                parts[name].load_state_dict(copy.deepcopy(state))
                if name == "optimizer" and "moments" in leave_out:
                    parts[name].state.clear()
                if name == "optimizer" and "learning_rate" in leave_out:
                    for group, lr in zip(parts[name].param_groups, fresh, strict=True):
                        group["lr"] = lr
        for name, (_, put) in GENERATORS.items():
            if name not in leave_out:
                put(self._generators[name])


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators: how a script starts."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
