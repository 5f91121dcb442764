"""Incident 01: the resumed run equals the uninterrupted one; if not, what is missing."""

from __future__ import annotations

from typing import Any

import numpy as np

from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Trial, Wrong, decides

BATCH, WIDTH, CLASSES = 8, 6, 4
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
SCHEDULES = ("step", "cosine", "exponential", "onecycle", "plateau")


def draw_batches(trial: Trial, steps: int, suffix: str = "") -> dict[str, np.ndarray]:
    """``x<suffix>`` of shape (steps, 8, 6) and ``y<suffix>`` of shape (steps, 8)."""
    x = trial.rng.standard_normal((steps, BATCH, WIDTH)).astype(np.float32)
    y = trial.rng.integers(0, CLASSES, (steps, BATCH))
    return {f"x{suffix}": x, f"y{suffix}": y}


class Experiment:
    """Train, save, load in a fresh process, train on; and the same without the interruption."""

    def __init__(self, trial: Trial, spec: dict[str, Any], **options: Any) -> None:
        self.trial, self.spec = trial, spec
        # An odd number of steps: two saves apart by a whole StepLR period would hide a lost one.
        self.steps = 2 * int(trial.rng.integers(3, 6)) + 1
        self.epoch = int(trial.rng.integers(2, 40))
        self.loss = float(trial.rng.uniform(0.1, 2.0))
        start = {"spec": spec, "seed": trial.draw_seed()}
        before = draw_batches(trial, self.steps)
        told = {"epoch": self.epoch, "loss": self.loss.hex()}
        self.saved = trial.probe("lr_reset.save", start | told | options, tensors=before)
        self.file = written(self.saved)
        # Only now are the batches after the resume drawn: nothing in (A) could know them.
        after = draw_batches(trial, 8)
        again = {"spec": spec, "other_seed": trial.draw_seed()} | options
        files = {"checkpoint.pt": self.file}
        self.resumed = trial.probe("lr_reset.resume", again, tensors=after, files=files)
        everything = before | {name + "2": array for name, array in after.items()}
        self.truth = trial.trusted("lr_reset.uninterrupted", start | options, tensors=everything)
        self.inside = trial.trusted("lr_reset.inspect", files=files)

    def first_difference(self) -> int | None:
        """The first step after the load at which the weights differ; 0 if already at the load."""
        truth, got = self.truth.tensors, self.resumed.tensors
        if differing(truth.under("loaded/model"), got.under("loaded/model")):
            return 0
        for step in range(1, 9):
            if differing(truth.under(f"step{step}"), got.under(f"step{step}")):
                return step
        return None

    def told(self, step: int) -> str:
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
        raise Wrong(f"{self.told(step)}\n{detail}", cause)

    def require_recipe_is_state(self) -> None:
        """The file must hold the state itself, not a way to make it again."""
        truth = self.truth.tensors.under("loaded/model")
        got = self.inside.tensors.under("model")
        if not self.inside.facts.get("opens"):
            return  # lr_reset.loads_by_default says so
        if bad := differing(truth, got):
            raise Wrong(
                "The resumed run is right, but the file does not hold the model: under "
                f'"model_state_dict" {names(bad)} is absent or another.',
                "not_in_file",
            )

    def diagnose(self) -> tuple[str, str]:
        """(what the evidence shows, the likeliest cause): the first that fits, in this order."""
        truth, got, facts = self.truth.tensors, self.resumed.tensors, self.resumed.facts
        return (
            _weights(truth, got)
            or _links(facts)
            or _rates(self.truth.facts, facts)
            or _optimizer(truth, got)
            or _extras(truth, got)
            or _generators(truth, got)
            or _later_rates(self.truth.facts, facts)
            or ("Everything looked right after the load, and training parted all the same.", "")
        )


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


def _weights(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    bad = differing(truth.under("loaded/model"), got.under("loaded/model"))
    if not bad:
        return None
    if all("running_" in name or "num_batches" in name for name in bad):
        return f"The parameters came back; these buffers did not: {names(bad)}.", "buffers"
    if set(bad) == set(truth.under("loaded/model")):
        return "None of the model's tensors came back.", "model_missing"
    return f"These came back as other tensors: {names(bad)}.", "model_partly"


def _links(facts: dict[str, Any]) -> tuple[str, str] | None:
    if facts.get("linked") is False:
        return "After the load the optimizer holds tensors that are not the model's.", "unlinked"
    grads = facts.get("requires_grad")
    if isinstance(grads, list) and (not any(grads[2:]) or all(grads)):
        shown = "no parameter is trained" if not any(grads) else "a frozen layer is trained"
        return f"After the load {shown}: requires_grad was changed.", "requires_grad"
    if facts.get("training") is False:
        return "The model was in train mode before the load, and in eval mode after.", "mode"
    return None


def _rates(truth: dict[str, Any], facts: dict[str, Any]) -> tuple[str, str] | None:
    expected, got = truth["lrs"], facts.get("lrs")
    if not got or expected[0] == got[0]:
        return None
    shown = ", ".join(f"{lr:.4g}" for lr in expected[0])
    came = ", ".join(f"{lr:.4g}" for lr in got[0])
    return (
        f"Uninterrupted, the next step uses the learning rates {shown}; resumed, {came}.",
        "learning_rate",
    )


def _later_rates(truth: dict[str, Any], facts: dict[str, Any]) -> tuple[str, str] | None:
    got = facts.get("lrs") or []
    for number, (want, came) in enumerate(zip(truth["lrs"], got, strict=False), start=1):
        if want != came:
            return (
                f"Step {number} after the load used the learning rate {came[0]:.4g}; "
                f"uninterrupted, it is {want[0]:.4g}.",
                "schedule",
            )
    return None


def _optimizer(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    want, came = truth.under("loaded/optimizer"), got.under("loaded/optimizer")
    bad = differing(want, came)
    if not bad:
        return None
    kinds = sorted({name.split("/")[1] for name in want})
    key = next((k for k in ("momentum_buffer", "exp_avg") if k in kinds), kinds[0])
    name = "momentum" if key == "momentum_buffer" else f"state {key}"

    def norm(tensors: Tensors) -> float:
        return Tensors({n: t for n, t in tensors.items() if n.endswith("/" + key)}).norm()

    said = (
        f"Before the save the optimizer's {name} had norm {norm(want):.3g}; "
        f"after the load, {norm(came):.3g}."
    )
    if norm(came) == 0:
        return said, "optimizer_empty"
    return said + f" Other than before: {names(sorted(bad))}.", "optimizer_partly"


def _extras(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    bad = differing(truth.under("loaded/extra"), got.under("loaded/extra"))
    if bad:
        return f"The extra state came back as another one: {names(bad)}.", "extra"
    return None


def _generators(truth: Tensors, got: Tensors) -> tuple[str, str] | None:
    want, came = truth.under("end/draws"), got.under("end/draws")
    bad = differing(want, came)
    if not bad:
        return None
    spoken = {"python": "Python's random", "numpy": "NumPy's", "torch": "torch's"}
    listed = ", ".join(spoken.get(name, name) for name in bad)
    return (
        f"Everything else came back, but at the end {listed} generator stands elsewhere.",
        "rng_" + ("all" if len(bad) >= 3 else bad[0].split(":")[0]),
    )


@decides("lr_reset.rng")
def rng(trial: Trial) -> str:
    counts = [int(n) for n in trial.rng.integers(3, 40, 3)]
    start = {"seed": trial.draw_seed(), "counts": counts}
    taken = trial.probe("lr_reset.take_rng", start)
    truth = trial.trusted("lr_reset.draw_rng", start).tensors.under("draws")
    moved = differing(truth, taken.tensors.under("draws"))
    if moved:
        raise Wrong(f"Calling rng_state() moved {names(moved)}: the next draw changed.", "moves")
    stored = {"state.pt": taken.files["state.pt"]} if "state.pt" in taken.files else {}
    inside = trial.trusted("lr_reset.inspect_rng", files=stored).facts
    _require_rng_format(inside)
    back = trial.probe("lr_reset.put_rng", files=stored)
    for number, when in ((0, "after set_rng_state"), (1, "after the second set_rng_state")):
        bad = differing(truth, back.tensors.under(str(number)))
        if bad:
            raise Wrong(
                f"In a new process, {when}, these generators draw something else: {names(bad)}.",
                "rng_all" if len(bad) >= 3 else f"rng_{bad[0].split(':')[0]}",
            )
    return "All generators draw in a new process what they would have drawn in the old one."


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
    experiment = Experiment(trial, WEIGHTS)
    experiment.require_same()
    return "Parameters and buffers came back, and training went on from them."


@decides("lr_reset.learning_rate")
def learning_rate(trial: Trial) -> str:
    schedule = str(trial.rng.choice(["step", "cosine", "exponential"]))
    experiment = Experiment(trial, RATE | {"schedule": schedule})
    experiment.require_same()
    first, last = experiment.truth.facts["lrs"][0][0], experiment.truth.facts["lrs"][-1][0]
    return f"The schedule ({schedule}) went on where it was: {first:.4g}, … {last:.4g}."


@decides("lr_reset.momentum")
def momentum(trial: Trial) -> str:
    experiment = Experiment(trial, MOMENTUM)
    experiment.require_same()
    norm = experiment.truth.tensors.under("loaded/optimizer").norm()
    return f"The momentum came back: norm {norm:.3g} before the save and after the load."


@decides("lr_reset.adam_moments")
def adam_moments(trial: Trial) -> str:
    experiment = Experiment(trial, ADAM | {"amsgrad": bool(trial.rng.integers(2))})
    experiment.require_same()
    return "Both moments and the step count came back."


@decides("lr_reset.loads_by_default")
def loads_by_default(trial: Trial) -> str:
    experiment = Experiment(trial, MOMENTUM | {"schedule": "step", "noise": True})
    facts = experiment.inside.facts
    if not facts["opens"]:
        blocked = facts["blocked"]
        raise Wrong(
            "torch.load(path), with its default, refuses the file"
            + (f". Blocked: {names(blocked)}." if blocked else f" ({facts['error']})."),
            "numpy_blocked" if any("numpy" in name for name in blocked) else "objects_pickled",
        )
    if facts["keys"] is None:
        raise Wrong(f"The file holds a {facts['type']}; a checkpoint is a dict.", "keys")
    absent = [key for key in CONTRACT_KEYS if key not in facts["keys"]]
    if absent:
        raise Wrong(f"The file lacks {names(absent)}. It has {names(facts['keys'], 9)}.", "keys")
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
    return f"The file opens by default and holds {names(CONTRACT_KEYS, 9)}."


@decides("lr_reset.incomplete_file")
def incomplete_file(trial: Trial) -> str:
    spec = MOMENTUM | {"schedule": "step", "noise": True}
    start = {"spec": spec, "seed": trial.draw_seed(), "epoch": 3, "loss": (0.5).hex()}
    saved = trial.probe("lr_reset.save", start, tensors=draw_batches(trial, 5))
    file = written(saved)
    # Which file lacks what is drawn: a loader that knows must have looked.
    cases: list[tuple[str, str, list[str]]] = [
        (key, "absent", ["optimizer", "scheduler"]) for key in CONTRACT_KEYS
    ]
    cases += [("scheduler_state_dict", "none", ["optimizer", "scheduler"])]
    cases += [("optimizer_state_dict", "absent", []), ("scheduler_state_dict", "absent", [])]
    cases += [("", "whole", ["optimizer", "scheduler"])]
    order = [cases[int(i)] for i in trial.rng.permutation(len(cases))]
    labels = [f"run-{number}" for number in range(len(order))]
    variants = {n: [key, how] for n, (key, how, _) in zip(labels, order, strict=True)}
    made = trial.trusted(
        "lr_reset.make_incomplete", {"variants": variants}, files={"checkpoint.pt": file}
    )
    asked = {n: parts for n, (_, _, parts) in zip(labels, order, strict=True)}
    args = {"spec": spec, "other_seed": trial.draw_seed()}
    tried = trial.probe("lr_reset.try_incomplete", args | {"files": asked}, files=made.files)
    fresh = trial.trusted("lr_reset.fresh_objects", args).tensors
    for label, (key, how, parts) in zip(labels, order, strict=True):
        came = tried.facts[label]
        state = tried.tensors.under(label)
        needed = how != "whole" and (
            key in ("epoch", "loss", "rng_state", "model_state_dict")
            or key.removesuffix("_state_dict") in parts
        )
        case = f'A file whose "{key}" is {how}' if key else "A whole file"
        call = "load_checkpoint(path, model=…" + "".join(f", {p}=…" for p in parts) + ")"
        if needed:
            _require_refusal(case, call, key, came, bool(differing(fresh, state)))
        elif came["raised"]:
            raise Wrong(
                f"{case}: {call} does not need that, and raised {came['raised']}: {came['text']}",
                "too_strict",
            )
        elif not differing(fresh.under("model"), state.under("model")):
            raise Wrong(f"{case}: {call} returned and had loaded nothing.", "model_missing")
    return f"{len(order)} files, each lacking something else: refused by name, or not needed."


def _require_refusal(case: str, call: str, key: str, came: dict[str, Any], changed: bool) -> None:
    if not came["raised"]:
        raise Wrong(f"{case}: {call} returned, and training would go on without it.", "silent")
    if "CheckpointError" not in came["bases"]:
        raise Wrong(
            f"{case}: expected a CheckpointError; came {came['raised']}: {came['text']}",
            "wrong_exception",
        )
    # "scheduler" names it as well as "scheduler_state_dict" does.
    if key.removesuffix("_state_dict").removesuffix("_state") not in came["text"]:
        raise Wrong(f"{case}: the error does not name it: {came['text']!r}", "unnamed")
    if changed:
        raise Wrong(
            f"{case}: CheckpointError, but only after something had been changed.", "too_late"
        )


@decides("lr_reset.same_bits")
def same_bits(trial: Trial) -> str:
    schedules = [str(s) for s in trial.rng.permutation(SCHEDULES)]
    steps = 0
    for number, optimizer in enumerate(("sgd", "adamw", "rmsprop")):
        spec = {"optimizer": optimizer, "lr": 0.02, "schedule": schedules[number]}
        options = {"used_objects": True} if number == 1 else {}
        experiment = Experiment(trial, spec, **options)
        experiment.require_same()
        if bad := differing(
            experiment.truth.tensors.under("end"), experiment.resumed.tensors.under("end")
        ):
            raise Wrong(
                f"{experiment.told(8)}\nThe weights agree; {names(bad)} does not.",
                _generators(experiment.truth.tensors, experiment.resumed.tensors)[1],
            )
        steps += 8
    return f"SGD, AdamW and RMSprop, three schedules: {steps} resumed steps, equal to the bit."


@decides("lr_reset.fine_print")
def fine_print(trial: Trial) -> str:
    _saving_disturbs_nothing(trial)
    _returns_and_modes(trial)
    _other_devices(trial)
    absent = trial.probe("lr_reset.missing_file", {"spec": MOMENTUM, "seed": trial.draw_seed()})
    if "FileNotFoundError" not in absent.facts.get("bases", []):
        came = absent.facts["raised"] or "nothing was raised"
        raise Wrong(f"There is no such file: expected FileNotFoundError; {came}.", "no_such_file")
    return "Nothing else is left behind, moved, changed or returned."


def _saving_disturbs_nothing(trial: Trial) -> None:
    """Two saves into missing directories, then training on: as if nothing had been saved."""
    spec = {"optimizer": "adamw", "lr": 0.02, "schedule": "none"}
    paths = ["runs/today/first.pt", "checkpoint.pt"]
    told = {"epoch": 0, "loss": (0.0).hex(), "paths": paths, "pathlike": True}
    start = {"spec": spec, "seed": trial.draw_seed()}
    batches = draw_batches(trial, 7) | draw_batches(trial, 8, "2")
    saved = trial.probe("lr_reset.save", start | told | {"save_again": "later.pt"}, tensors=batches)
    for name in (*paths, "later.pt"):
        written(saved, name)
    others = sorted(set(saved.left()) - {*paths, "later.pt"})
    if others:
        raise Wrong(f"Beside the checkpoints there is now {names(others)}.", "litter")
    truth = trial.trusted("lr_reset.uninterrupted", start, tensors=batches)
    if differing(truth.tensors.under("end"), saved.tensors.under("end")) or any(
        differing(truth.tensors.under(f"step{n}"), saved.tensors.under(f"step{n}"))
        for n in range(1, 9)
    ):
        mode = "" if saved.facts.get("training") else " The model is no longer in train mode."
        raise Wrong(
            f"The run that saved and went on differs from one that never saved.{mode}",
            "save_disturbs",
        )
    # The file written last must hold the state at that time, not at an earlier save.
    later = trial.trusted("lr_reset.inspect", files={"checkpoint.pt": saved.files["later.pt"]})
    if later.facts["opens"] and differing(
        truth.tensors.under("step8"), later.tensors.under("model")
    ):
        raise Wrong(
            "Saved, trained 8 more steps, saved again: the second file does not hold the weights "
            "of that moment.",
            "stale",
        )


def _returns_and_modes(trial: Trial) -> None:
    experiment = Experiment(trial, MOMENTUM | {"schedule": "step"}, eval=True)
    facts = experiment.resumed.facts
    if facts["training"]:
        raise Wrong("The model was in eval mode before the load, and in train mode after.", "mode")
    returned = facts["returned"]
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


def _other_devices(trial: Trial) -> None:
    """A file from a machine with a GPU, loaded where there is none."""
    spec = MOMENTUM | {"schedule": "step"}
    start = {"spec": spec, "seed": trial.draw_seed(), "epoch": 1, "loss": (0.5).hex()}
    file = written(trial.probe("lr_reset.save", start, tensors=draw_batches(trial, 3)))
    opened = trial.trusted("lr_reset.inspect", files={"checkpoint.pt": file})
    if not opened.facts["opens"]:
        return  # lr_reset.loads_by_default says so
    moved = trial.trusted("lr_reset.retag", files={"checkpoint.pt": file})
    after = draw_batches(trial, 3)
    again = {"spec": spec, "other_seed": trial.draw_seed()}
    report = trial.attempt("lr_reset.resume", again, tensors=after, files=moved.files)[0]
    if report.outcome == "raised" and "deserialize" in str(report.details.get("text")):
        raise Wrong(
            "A checkpoint whose tensors were saved on a GPU does not load on a machine without "
            "one, called without map_location.",
            "map_location",
        )
    trial.evidence(report)


@decides("lr_reset.extra_state")
def extra_state(trial: Trial) -> str:
    spec = {"optimizer": "adamw", "lr": 0.02, "schedule": "cosine", "extras": True}
    experiment = Experiment(trial, spec)
    truth, got = experiment.truth.tensors, experiment.resumed.tensors
    if bad := differing(truth.under("loaded/extra"), got.under("loaded/extra")):
        raise Wrong(
            f"Saved with ema=…, scaler=…, sampler=None. Other state after the load: {names(bad)}.",
            "extra",
        )
    keys = experiment.inside.facts.get("keys") or []
    if "ema_state_dict" not in keys or "scaler_state_dict" not in keys:
        raise Wrong(
            f'The file has {names(keys, 12)}; "ema_state_dict" and "scaler_state_dict" belong '
            "there too.",
            "extra_keys",
        )
    if "sampler_state_dict" in keys:
        raise Wrong("An extra that is None is to be left out of the file.", "extra_none")
    if differing(truth.under("end/draws"), got.under("end/draws")) or experiment.first_difference():
        raise Wrong(
            f"{experiment.told(experiment.first_difference() or 8)}\n"
            "One of the extras draws random numbers while it loads.",
            "rng_not_last",
        )
    return "The extras came back; one that draws while loading disturbed nothing."


@decides("lr_reset.read_back")
def read_back(trial: Trial) -> str:
    kinds = ["none", "unreadable", "empty", "zero", "no scheduler", "optimizer none"]
    order = [kinds[int(i)] for i in trial.rng.permutation(len(kinds))]
    saves = {f"run-{number}": kind for number, kind in enumerate(order)}
    args = {"spec": MOMENTUM, "seed": trial.draw_seed(), "saves": saves}
    tried = trial.probe("lr_reset.read_back", args)
    told = {
        "none": "an extra whose state_dict() is None",
        "unreadable": "an extra whose state torch.load refuses by default",
        "empty": "an extra whose state is {}",
        "zero": "an extra whose state is {'n': 0}",
        "no scheduler": "scheduler=None",
        "optimizer none": "an optimizer whose state_dict() is None",
    }
    for name, kind in saves.items():
        came = tried.facts[name]
        if kind in ("none", "unreadable", "optimizer none"):
            if not came["raised"]:
                raise Wrong(f"Saved with {told[kind]}: save_checkpoint returned.", "unvalidated")
            if "CheckpointError" not in came["bases"]:
                raise Wrong(
                    f"Saved with {told[kind]}: expected CheckpointError; came {came['raised']}: "
                    f"{came['text']}",
                    "wrong_exception",
                )
        elif came["raised"]:
            raise Wrong(
                f"Saved with {told[kind]}, which is complete; came {came['raised']}: "
                f"{came['text']}",
                "too_strict",
            )
    return "Incomplete or unreadable files are noticed when they are written."
