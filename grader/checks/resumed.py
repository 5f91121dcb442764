"""The experiment that a resume is judged by: train, save, load in a fresh process, train on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from grader.checks import diagnose
from grader.evidence import Evidence, differing, names
from grader.judge import Run, Trial, Wrong, in_turn

BATCH, WIDTH, CLASSES = 8, 6, 4
AFTER = 6  # steps after a resume
CONTRACT_KEYS = (
    "epoch",
    "loss",
    "model_state_dict",
    "optimizer_state_dict",
    "scheduler_state_dict",
    "rng_state",
)

# Each spec leaves in play only what its check is about; SAME_BITS leaves everything in play.
PLAIN = {"dropout": 0.0, "noise": False, "schedule": "constant", "other_lr_scale": 1.0}
WEIGHTS = PLAIN | {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1}
RATE = PLAIN | {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1, "other_lr_scale": 3.0}
MOMENTUM = PLAIN | {"optimizer": "sgd", "momentum": 0.9, "lr": 0.05}
ADAM = PLAIN | {"optimizer": "adamw", "lr": 0.01}


def draw_batches(trial: Trial, steps: int, suffix: str = "") -> dict[str, np.ndarray]:
    """``x<suffix>`` of shape (steps, 8, 6) and ``y<suffix>`` of shape (steps, 8)."""
    x = trial.rng.standard_normal((steps, BATCH, WIDTH)).astype(np.float32)
    y = trial.rng.integers(0, CLASSES, (steps, BATCH))
    return {f"x{suffix}": x, f"y{suffix}": y}


class Experiment:
    """Train, save, load in a fresh process, train on; and the same without the interruption.

    Drawn here. ``save_all`` sets ``file`` (what was saved), ``resume_all`` sets ``truth`` (the run
    without the interruption), ``inside`` (what the file holds) and ``resumed``.
    """

    def __init__(
        self, trial: Trial, spec: dict[str, Any], *, loss: float | None = None, **options: Any
    ) -> None:
        self.trial, self.spec, self.options = trial, spec, options
        self.in_eval = bool(options.get("eval"))
        # An odd number of steps: two saves apart by a whole StepLR period would hide a lost one.
        self.steps = 2 * int(trial.rng.integers(2, 4)) + 1
        self.epoch = int(trial.rng.integers(2, 40))
        drawn = float(trial.rng.uniform(0.1, 2.0))
        self.loss = drawn if loss is None else loss
        self.told = {"epoch": self.epoch, "loss": self.loss.hex()}
        self.start = {"spec": spec, "seed": trial.draw_seed()}
        self.before = draw_batches(trial, self.steps)
        self.file: bytes
        self.truth: Evidence
        self.inside: Evidence
        self.resumed: Evidence

    def first_save(self) -> Run:
        """The run that trains and saves."""
        return Run("lr_reset.save", self.start | self.told | self.options, self.before)

    def never_interrupted(self, after: dict[str, np.ndarray]) -> Run:
        """The trusted run that goes on with the batches ``after``."""
        everything = self.before | {name + "2": array for name, array in after.items()}
        return Run("lr_reset.uninterrupted", self.start | self.options, everything)

    def second_start(self, after: dict[str, np.ndarray]) -> Run:
        """The run that loads and trains on."""
        again = {"spec": self.spec, "other_seed": self.trial.draw_seed()} | self.options
        if self.options.get("resave"):
            again |= self.told
        return Run("lr_reset.resume", again, after, {"checkpoint.pt": self.file})

    def first_difference(self) -> int | None:
        """The first step after the load at which the weights differ; 0 if already at the load."""
        truth, got = self.truth.tensors, self.resumed.tensors
        if differing(truth.under("loaded/model"), got.under("loaded/model")):
            return 0
        for step in range(1, AFTER + 1):
            if differing(truth.under(f"step{step}"), got.under(f"step{step}")):
                return step
        return None

    def parted(self, step: int) -> str:
        """The sentence that says what was done and where the runs part."""
        done = f"Trained {self.steps} steps, saved, loaded in a new process, trained on."
        if step == 0:
            return f"{done}\nRight after the load the model is already another one."
        number = self.steps + step
        where = f"step {number}" + (" (the first after the load)" if step == 1 else "")
        return f"{done} First difference: {where}."

    def require_same(self) -> None:
        """Raise Wrong, with the likeliest cause, unless all weights are equal, step by step."""
        step = self.first_difference()
        if step is None:
            self.require_recipe_is_state()
            return
        detail, cause = self.diagnose()
        raise Wrong(f"{self.parted(step)}\n{detail}", cause)

    def require_recipe_is_state(self, so_far: str = "The resumed run is right.") -> None:
        """The file must hold the state itself, not a way to make it again."""
        truth = self.truth.tensors.under("loaded/model")
        got = self.inside.tensors.under("model")
        if not self.inside.facts.get("opens"):
            return  # lr_reset.loads_by_default says so
        if bad := differing(truth, got):
            raise Wrong(
                f'{so_far} The file does not hold the model: under "model_state_dict" '
                f"{names(bad)} is absent or another.",
                "not_in_file",
            )

    def diagnose(self) -> tuple[str, str]:
        """(what the evidence shows, the likeliest cause): the first that fits, in this order."""
        truth, got, facts = self.truth.tensors, self.resumed.tensors, self.resumed.facts
        return (
            diagnose.weights(truth, got)
            or diagnose.links(facts, training=not self.in_eval)
            or diagnose.rates(self.truth.facts, facts)
            or diagnose.optimizer(truth, got)
            or diagnose.group_keys(self.truth.facts, facts)
            or diagnose.extras(truth, got)
            # Another rate by the time the runs part is a cause; later it may be a consequence.
            or diagnose.later_rates(self.truth.facts, facts, until=self.first_difference())
            or diagnose.generators(truth, got)
            or diagnose.later_rates(self.truth.facts, facts)
            or ("Everything looked right after the load, and training parted all the same.", "")
        )


def save_all(trial: Trial, experiments: Sequence[Experiment], *also: Run) -> list[Evidence]:
    """Have one process train and save each, and do the runs of ``also``: what came of these."""
    first = [*(e.first_save() for e in experiments), *also]
    saved = trial.probe_each(first)
    for experiment, evidence in zip(experiments, saved, strict=False):
        experiment.file = written(evidence)
    return saved[len(experiments) :]


def resume_all(trial: Trial, experiments: Sequence[Experiment], *also: Run) -> list[Evidence]:
    """Have another process resume each, and do the runs of ``also``: what came of these."""
    # Only now are the batches after the resume drawn: nothing in the first process could know them.
    after = [draw_batches(trial, AFTER) for _ in experiments]
    truths = trial.trusted_each(
        [e.never_interrupted(a) for e, a in zip(experiments, after, strict=True)]
    )
    insides = inspected(trial, *(e.file for e in experiments))
    for experiment, truth, inside in zip(experiments, truths, insides, strict=True):
        experiment.truth, experiment.inside = truth, inside
    second = [*(e.second_start(a) for e, a in zip(experiments, after, strict=True)), *also]
    report = trial.attempt(**in_turn(second))[0]
    if report.outcome == "raised" and "NotImplementedError" not in report.details["bases"]:
        for experiment in experiments:
            experiment.require_recipe_is_state(f"{report.stage} raised {report.details['type']}.")
    resumed = trial.evidence_of_each(report, len(second))
    for experiment, evidence in zip(experiments, resumed, strict=False):
        experiment.resumed = evidence
    return resumed[len(experiments) :]


def conducted(trial: Trial, spec: dict[str, Any], **options: Any) -> Experiment:
    """One experiment, carried out."""
    experiment = Experiment(trial, spec, **options)
    save_all(trial, [experiment])
    resume_all(trial, [experiment])
    return experiment


def inspected(trial: Trial, *files: bytes) -> list[Evidence]:
    """What each file holds (D): opened by trusted code, as ``torch.load`` opens it by default."""
    runs = [Run("lr_reset.inspect", files={"checkpoint.pt": file}) for file in files]
    return trial.trusted_each(runs)


def written(evidence: Evidence, name: str = "checkpoint.pt") -> bytes:
    """The file that the save left, or Wrong."""
    if name not in evidence.files:
        there = names(evidence.left()) or "nothing"
        raise Wrong(
            f"save_checkpoint({name!r}, …) returned, and there is no such file; in the directory: "
            f"{there}.",
            "no_file",
        )
    return evidence.files[name]


def opened(trial: Trial, file: bytes) -> Evidence:
    """What the file holds (D), or Wrong if torch.load's default refuses it."""
    (inside,) = inspected(trial, file)
    require_opens(inside.facts)
    return inside


def require_opens(facts: dict[str, Any]) -> None:
    if facts["opens"]:
        return
    blocked = facts["blocked"]
    raise Wrong(
        "torch.load(path), with its default, refuses the file"
        + (f". Blocked: {names(blocked)}." if blocked else f" ({facts['error']})."),
        "numpy_blocked" if any("numpy" in name for name in blocked) else "objects_pickled",
    )


def require_keys(facts: dict[str, Any]) -> None:
    """The file is a dict with the contract's keys."""
    if facts["keys"] is None:
        raise Wrong(f"The file holds a {facts['type']}; a checkpoint is a dict.", "keys")
    absent = [key for key in CONTRACT_KEYS if key not in facts["keys"]]
    if absent:
        raise Wrong(f"The file lacks {names(absent)}. It has {names(facts['keys'], 9)}.", "keys")


def require_returned(experiment: Experiment) -> None:
    returned = experiment.resumed.facts["returned"]
    if returned["type"] != "dict" or returned["keys"] != ["epoch", "loss"]:
        came = returned["type"] if returned["type"] != "dict" else f"keys {returned['keys']}"
        raise Wrong(
            f'load_checkpoint is to return exactly {{"epoch": …, "loss": …}}; it returned {came}.',
            "returns",
        )
    if returned["epoch"] != experiment.epoch:
        raise Wrong(
            f"Saved with epoch={experiment.epoch}; load_checkpoint returned {returned['epoch']}.",
            "epoch",
        )
    if returned["loss"] != experiment.loss.hex():
        raise Wrong(
            f"Saved with loss={experiment.loss!r}; load_checkpoint returned {returned['loss']}, "
            "not the same to the bit.",
            "loss_bits",
        )


def require_refusal(case: str, call: str, key: str, came: dict[str, Any], changed: bool) -> None:
    if not came["raised"]:
        raise Wrong(f"{case}: {call} returned, and training would go on without it.", "silent")
    if "CheckpointError" not in came["bases"]:
        raise Wrong(
            f"{case}: expected a CheckpointError; came {came['raised']}: {came['text']}",
            "wrong_exception",
        )
    if "RuntimeError" not in came["bases"]:
        raise Wrong(
            f"{case}: CheckpointError was raised, and it is no RuntimeError any more.",
            "wrong_exception",
        )
    # "scheduler" names it as well as "scheduler_state_dict" does.
    if key.removesuffix("_state_dict").removesuffix("_state") not in came["text"]:
        raise Wrong(f"{case}: the error does not name it: {came['text']!r}", "unnamed")
    if changed:
        raise Wrong(
            f"{case}: CheckpointError, but only after something had been changed.", "too_late"
        )
