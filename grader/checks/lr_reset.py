"""Incident 01: the resumed run equals the uninterrupted one; if not, what is missing."""

from __future__ import annotations

import math
from typing import Any

from grader.checks import diagnose
from grader.checks.resumed import (
    ADAM,
    AFTER,
    CONTRACT_KEYS,
    MOMENTUM,
    RATE,
    WEIGHTS,
    Experiment,
    conducted,
    draw_batches,
    opened,
    require_keys,
    require_opens,
    require_refusal,
    resume_all,
    save_all,
    written,
)
from grader.evidence import differing, names
from grader.judge import Failed, Run, Trial, Wrong, decides

MISFITS = (
    "without a layer's weight",
    "with a layer too many",
    "of another shape",
    "of a shape that broadcasts",
)
OPTIMIZERS = ("sgd", "adamw", "rmsprop")
SCHEDULES = ("step", "cosine", "exponential", "onecycle", "plateau")


@decides("lr_reset.rng")
def rng(trial: Trial) -> str:
    counts = [int(n) for n in trial.rng.integers(3, 40, 3)]
    start = {"seed": trial.draw_seed(), "counts": counts}
    taken = trial.probe("lr_reset_rng.take_rng", start)
    truth = trial.trusted("lr_reset_rng.draw_rng", start).tensors.under("draws")
    moved = differing(truth, taken.tensors.under("draws"))
    if moved:
        raise Wrong(f"Calling rng_state() moved {names(moved)}: the next draw changed.", "moves")
    stored = {"state.pt": taken.files["state.pt"]} if "state.pt" in taken.files else {}
    inside = trial.trusted("lr_reset_rng.inspect_rng", files=stored).facts
    _require_rng_format(inside)
    back = trial.probe("lr_reset_rng.put_rng", files=stored)
    for number, when in ((0, "after set_rng_state"), (1, "after the second set_rng_state")):
        bad = differing(truth, back.tensors.under(str(number)))
        if bad:
            raise Wrong(
                f"In a new process, {when}, these generators draw something else: {names(bad)}.",
                "rng_all" if len(bad) >= 3 else f"rng_{bad[0].split(':')[0]}",
            )
    more = trial.probe("lr_reset_rng.put_rng_of_more_devices", files=stored)
    if bad := differing(truth, more.tensors):
        raise Wrong(
            f"A state from a machine with one GPU more: not restored here: {names(bad)}.",
            "other_devices",
        )
    if not more.facts["warned"]:
        raise Wrong(
            "A state from a machine with one GPU more was put back without a word.",
            "other_devices",
        )
    _devices(trial)
    return "All generators draw in a new process what they would have drawn in the old one."


def _devices(trial: Trial) -> None:
    """Two CUDA devices: each has a state of its own, and a warning says where their number differs.

    CPU generators stand in for the devices' (no CUDA is run).
    """
    start = {
        "seeds": [trial.draw_seed(), trial.draw_seed()],
        "counts": [int(n) for n in trial.rng.integers(3, 40, 2)],
    }
    others = [trial.draw_seed(), trial.draw_seed()]
    came = trial.probe("lr_reset_devices.two_devices", start | {"others": others})
    truth = trial.trusted("lr_reset_devices.draw", start).tensors.under("draws")
    if bad := differing(truth, came.tensors.under("taken")):
        raise Wrong(f"Calling rng_state() moved CUDA device {names(bad)}'s generator.", "moves")
    for name, saved, present in (("same", 2, "01"), ("fewer", 1, "0"), ("more", 3, "01")):
        got = came.tensors.under(name)
        told = f"A state of {saved} CUDA device{'s' * (saved > 1)}, put back where there are 2"
        if bad := [device for device in present if got.get(device) != truth[device]]:
            raise Wrong(
                f"{told}: the generator of device {names(bad)} does not draw what it would have "
                f"drawn. (rng_state() gave {came.facts['states']} states for 2 devices.)",
                "rng_cuda",
            )
        if name != "same" and not came.facts["warned"][name]:
            raise Wrong(f"{told}: no warning says so.", "other_devices")


def _require_rng_format(inside: dict[str, Any]) -> None:
    if not inside["stored"]:
        raise Wrong("torch.save could not store what rng_state() returned.", "rng_unsafe")
    if not inside["opens"]:
        raise Wrong(
            "torch.load, with its default, refuses what rng_state() returned. "
            f"Blocked: {names(inside['blocked']) or 'something not named'}.",
            "rng_unsafe",
        )
    keys = inside.get("keys")
    wanted = {"python", "numpy", "torch", "cuda"}
    if keys is None or not wanted <= set(keys):
        came = inside["type"] if keys is None else f"the keys {', '.join(keys)}"
        raise Wrong(
            f"rng_state() is to return a dict with the keys {', '.join(sorted(wanted))}; "
            f"it returned {came}.",
            "rng_keys",
        )
    if inside["numpy_keys"] != "torch.int64":
        raise Wrong(
            'Under "numpy" there is to be (name, keys, pos, has_gauss, cached_gaussian), with keys '
            f"an int64 tensor; its keys came as {inside['numpy_keys']}.",
            "rng_numpy_format",
        )


@decides("lr_reset.weights")
def weights(trial: Trial) -> str:
    experiment = conducted(trial, WEIGHTS)
    experiment.require_same()
    return "Parameters and buffers came back, and training went on from them."


@decides("lr_reset.learning_rate")
def learning_rate(trial: Trial) -> str:
    # Not an exponential one: it multiplies the last rate, and goes on rightly without its count.
    schedule = str(trial.rng.choice(["step", "cosine", "lambda"]))
    experiment = conducted(trial, RATE | {"schedule": schedule})
    experiment.require_same()
    first, last = experiment.truth.facts["lrs"][0][0], experiment.truth.facts["lrs"][-1][0]
    return f"The schedule ({schedule}) went on where it was: {first:.4g}, … {last:.4g}."


@decides("lr_reset.momentum")
def momentum(trial: Trial) -> str:
    experiment = conducted(trial, MOMENTUM)
    experiment.require_same()
    norm = experiment.truth.tensors.under("loaded/optimizer").norm()
    return f"The momentum came back: norm {norm:.3g} before the save and after the load."


@decides("lr_reset.adam_moments")
def adam_moments(trial: Trial) -> str:
    experiment = conducted(trial, ADAM | {"amsgrad": bool(trial.rng.integers(2))})
    experiment.require_same()
    return "Both moments and the step count came back."


@decides("lr_reset.loads_by_default")
def loads_by_default(trial: Trial) -> str:
    spec = MOMENTUM | {"schedule": "step", "noise": True}
    experiment = Experiment(trial, spec)
    # The mean of some losses is a np.float64, which is a float, and which the default refuses.
    told = {"epoch": 3, "loss": (0.1).hex(), "numpy_loss": True}
    start = {"spec": spec, "seed": trial.draw_seed()}
    save = Run("lr_reset.save", start | told, draw_batches(trial, 3))
    (numpy_loss,) = save_all(trial, [experiment], save)
    resume_all(trial, [experiment])
    facts = experiment.inside.facts
    require_opens(facts)
    require_keys(facts)
    if facts["epoch"] != experiment.epoch:
        raise Wrong(
            f'Saved with epoch={experiment.epoch}; the file\'s "epoch" is {facts["epoch"]!r}.',
            "epoch",
        )
    if facts["loss"] is None:
        raise Wrong(
            f'The file\'s "loss" is a {facts["loss_type"]}; it is to be a Python float.',
            "loss_type",
        )
    if facts["loss"] != experiment.loss.hex():
        came = float.fromhex(facts["loss"])
        raise Wrong(f"Saved with loss={experiment.loss!r}; the file has {came!r}.", "loss_bits")
    _require_rng_format({"stored": True, "opens": True, **facts["rng"]})
    experiment.require_recipe_is_state()
    want = experiment.truth.tensors.under("loaded/optimizer")
    held = {tensor.data for tensor in experiment.inside.tensors.under("optimizer").values()}
    lost = [name for name, tensor in want.items() if tensor.data not in held]
    if lost:
        raise Wrong(
            "The file's \"optimizer_state_dict\" does not hold the optimizer's state: "
            f"{names(lost)} is not in it.",
            "optimizer_empty",
        )
    facts = opened(trial, written(numpy_loss)).facts
    if facts["loss"] != (0.1).hex():
        raise Wrong(
            f'Saved with loss=np.float64(0.1); the file\'s "loss" is a {facts["loss_type"]}.',
            "loss_type",
        )
    return f"The file opens by default and holds {names(CONTRACT_KEYS, 9)}."


@decides("lr_reset.incomplete_file")
def incomplete_file(trial: Trial) -> str:
    spec = MOMENTUM | {"schedule": "step", "noise": True}
    start = {"spec": spec, "seed": trial.draw_seed(), "epoch": 3, "loss": (0.5).hex()}
    saved = trial.probe("lr_reset.save", start, tensors=draw_batches(trial, 5))
    file = written(saved)
    require_keys(opened(trial, file).facts)
    # Which file lacks what is drawn: a loader that knows must have looked.
    cases: list[tuple[str, str, list[str]]] = [
        (key, "absent", ["optimizer", "scheduler"]) for key in CONTRACT_KEYS
    ]
    cases += [("scheduler_state_dict", "none", ["optimizer", "scheduler"])]
    cases += [("optimizer_state_dict", "absent", []), ("scheduler_state_dict", "absent", [])]
    cases += [("", "whole", ["optimizer", "scheduler"])]
    cases += [("model_state_dict", how, []) for how in MISFITS]
    order = [cases[int(i)] for i in trial.rng.permutation(len(cases))]
    labels = [f"run-{number}" for number in range(len(order))]
    variants = {n: [key, how] for n, (key, how, _) in zip(labels, order, strict=True)}
    made = trial.trusted(
        "lr_reset_files.make_incomplete", {"variants": variants}, files={"checkpoint.pt": file}
    )
    asked = {n: parts for n, (_, _, parts) in zip(labels, order, strict=True)}
    args = {"spec": spec, "other_seed": trial.draw_seed()}
    tried = trial.probe("lr_reset_files.try_incomplete", args | {"files": asked}, files=made.files)
    fresh = trial.trusted("lr_reset_files.fresh_objects", args).tensors
    for label, (key, how, parts) in zip(labels, order, strict=True):
        came = tried.facts[label]
        state = tried.tensors.under(label)
        needed = how != "whole" and (
            key in ("epoch", "loss", "rng_state", "model_state_dict")
            or key.removesuffix("_state_dict") in parts
        )
        case = f'A file whose "{key}" is {how}' if key else "A whole file"
        call = "load_checkpoint(path, model=…" + "".join(f", {p}=…" for p in parts) + ")"
        if how in MISFITS:
            if not came["raised"]:
                raise Wrong(
                    f"{case}: {call} returned. The model's names and shapes are strict.", "strict"
                )
            if "RuntimeError" not in came["bases"]:
                raise Wrong(
                    f"{case}: expected torch's own RuntimeError; came {came['raised']}: "
                    f"{came['text']}",
                    "strict",
                )
        elif needed:
            require_refusal(case, call, key, came, bool(differing(fresh, state)))
        elif came["raised"]:
            raise Wrong(
                f"{case}: {call} does not need that, and raised {came['raised']}: {came['text']}",
                "too_strict",
            )
        elif not differing(fresh.under("model"), state.under("model")):
            raise Wrong(f"{case}: {call} returned and had loaded nothing.", "model_missing")
    return f"{len(order)} files, each lacking something else: refused by name, or not needed."


@decides("lr_reset.same_bits")
def same_bits(trial: Trial) -> str:
    schedules = ["lambda", *(str(s) for s in trial.rng.permutation(SCHEDULES))]
    # A roll-back into objects that have trained; a loss that is no number (one run diverged).
    options: list[dict[str, Any]] = [{}, {"used_objects": True}, {"loss": math.nan}]
    experiments = [
        Experiment(trial, {"optimizer": optimizer, "lr": 0.02, "schedule": schedule}, **more)
        for optimizer, schedule, more in zip(OPTIMIZERS, schedules, options, strict=False)
    ]
    save_all(trial, experiments)
    try:
        resume_all(trial, experiments)
    except Failed as failed:
        # What came of the runs before the one that raised says more.
        for experiment in experiments if failed.report.outcome == "raised" else []:
            resume_all(trial, [experiment])
            _require_same_end(experiment)
        raise
    for experiment in experiments:
        _require_same_end(experiment)
    steps = AFTER * len(experiments)
    return f"SGD, AdamW and RMSprop, three schedules: {steps} resumed steps, equal to the bit."


def _require_same_end(experiment: Experiment) -> None:
    experiment.require_same()
    truth, got = experiment.truth.tensors, experiment.resumed.tensors
    if bad := differing(truth.under("end"), got.under("end")):
        raise Wrong(
            f"{experiment.parted(AFTER)}\nThe weights agree; {names(bad)} does not.",
            diagnose.generators(truth, got)[1],
        )
