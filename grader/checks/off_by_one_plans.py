"""Incident 04: what a run that is to be killed several times consists of, drawn."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grader.judge import Trial

PER_STEP = ("cosine", "onecycle", "exponential")
PER_EPOCH = ("step", "plateau")


@dataclass
class Plan:
    """One run: its settings, and the events after which it is killed.

    An event is an optimizer step or the completion of an epoch, counted from 1.
    """

    schedule: str
    optimizer: str
    length: int
    batch_size: int
    epochs: int
    save_every: int
    kills: list[int]
    seed: int
    sampler_seed: int
    other_seed: int
    order: np.ndarray | None = None
    data: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)

    @property
    def spec(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer, "lr": 0.02, "schedule": self.schedule}

    @property
    def batches(self) -> int:
        """Steps in an epoch."""
        return -(-self.length // self.batch_size)

    @property
    def events(self) -> int:
        return self.epochs * (self.batches + 1)

    def at(self, event: int) -> tuple[int, int, int]:
        """(epochs completed, batches of the next, steps) after ``event`` events."""
        completed, batch = divmod(event, self.batches + 1)
        return completed, batch, completed * self.batches + batch

    def saved(self, event: int) -> int:
        """The last event up to ``event`` after which a checkpoint was written; 0 if none."""
        while event and self.at(event)[1] and self.at(event)[2] % self.save_every:
            event -= 1
        return event

    @property
    def starts(self) -> list[int]:
        """Where each process after the first goes on."""
        return [self.saved(kill) for kill in self.kills]

    def where(self, event: int) -> str:
        completed, batch, step = self.at(event)
        inside = f"after {batch} of {self.batches} batches" if batch else "before its first batch"
        return f"epoch {completed}, {inside} (step {step})"


def draw_plan(trial: Trial, schedule: str, kills: list[str] | int) -> Plan:
    """A run with kills at the named moments, or at that many random ones."""
    batches, batch_size = int(trial.rng.integers(3, 6)), int(trial.rng.integers(4, 7))
    plan = Plan(
        schedule=schedule,
        optimizer=str(trial.rng.choice(["sgd", "adamw"])),
        # The last batch is smaller, and never of one: batch norm needs two.
        length=batches * batch_size - int(trial.rng.integers(0, batch_size - 2)),
        batch_size=batch_size,
        epochs=3,
        save_every=int(trial.rng.integers(1, 3)),
        kills=[],
        seed=trial.draw_seed(),
        sampler_seed=trial.draw_seed(),
        other_seed=trial.draw_seed(),
    )
    whole = plan.batches + 1
    moments = {
        "first step": 1,
        "last step": plan.events - 1,
        "last batch of an epoch": whole * int(trial.rng.integers(1, 3)) - 1,
        "epoch boundary": whole * int(trial.rng.integers(1, 3)),
    }
    if isinstance(kills, int):
        plan.kills = sorted(int(k) for k in trial.rng.choice(plan.events - 1, kills, False) + 1)
    else:
        plan.kills = sorted({moments[name] for name in kills})
        if "last batch of an epoch" in kills:
            plan.save_every = 1  # the checkpoint between an epoch's last batch and its end
    return plan
