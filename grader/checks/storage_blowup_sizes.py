"""Incident 06: sizes before training, what asking disturbs, and how often to save."""

from __future__ import annotations

import math
from typing import Any

from grader.checks.storage_blowup_runs import SPEC, draw_data
from grader.evidence import differing, names
from grader.judge import Trial, Wrong, decides

MARGIN = 0.02


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.3f} MB"


class Sizes:
    """What was said and what the files weigh, case by case."""

    def __init__(self, trial: Trial, cases: dict[str, dict[str, Any]]) -> None:
        self.cases = cases
        truth = trial.trusted("storage_blowup_sizes.weigh", {"cases": cases}, seconds=30).facts
        # In an order that is drawn: nothing about a case follows from when it is asked.
        order = [list(cases)[int(i)] for i in trial.rng.permutation(len(cases))]
        asked = {"cases": {name: cases[name] for name in order}}
        report = trial.probe("storage_blowup_sizes.measure", asked, seconds=30)
        self.said, self.true, self.weights = report.facts["sizes"], truth["sizes"], truth["weights"]

    def wrong(self) -> list[str]:
        """The cases whose size is off by more than 2 %, in the order of ``cases``."""
        return [n for n in self.cases if abs(self.said[n] / self.true[n] - 1) > MARGIN]

    def ratio(self, name: str) -> float:
        """How many copies of the trainable weights the answer is above the file."""
        return (self.said[name] - self.true[name]) / max(self.weights[name], 1)

    def message(self, name: str) -> str:
        case, call = self.cases[name], "checkpoint_nbytes(model)"
        if "optimizer" in case:
            call = "checkpoint_nbytes(model, optimizer)"
        off = self.said[name] / self.true[name] - 1
        return (
            f"{call} for {case['told']}: it returned {_megabytes(self.said[name])}; the file has "
            f"{_megabytes(self.true[name])} ({off:+.0%})."
        )


@decides("storage_blowup.weights_bytes")
def weights_bytes(trial: Trial) -> str:
    told = {
        "plain": "two linear layers",
        "buffers": "a model with a persistent buffer as large as a layer",
        "scratch": "a model with a large buffer that is not persistent",
        "tied": "a model whose two layers share one weight",
        "frozen": "a model with a frozen layer",
        "bfloat16": "a model in bfloat16",
        "float64": "a model in float64",
        "slice": "a model whose buffer is table[:10], a slice of a large tensor",
    }
    cases = {
        trait: {"trait": trait, "told": text, "width": int(trial.rng.integers(560, 640))}
        for trait, text in told.items()
    }
    sizes = Sizes(trial, cases)
    if bad := sizes.wrong():
        cause = "dtype" if bad[0] in ("bfloat16", "float64") else bad[0]
        raise Wrong(sizes.message(bad[0]), "bytes" if cause == "plain" else cause)
    return f"{len(cases)} models, each size within 2 % of its file's."


def _optimizer_cases(trial: Trial) -> dict[str, dict[str, Any]]:
    fresh = "before its first step"
    others = {
        "NAdam": {},
        "RAdam": {},
        "Adamax": {},
        "Adadelta": {},
    }
    single = {
        "Adagrad": {},
        "Rprop": {},
        "RMSprop": {"centered": True, "momentum": 0.5},
    }
    drawn = [str(trial.rng.choice(list(kind))) for kind in (others, single)]
    momentum = {"momentum": 0.9, "lr": 0.1}
    cases: dict[str, dict[str, Any]] = {
        "sgd": {"optimizer": "SGD", "options": {"lr": 0.1}, "told": "SGD without momentum"},
        "momentum": {"optimizer": "SGD", "options": momentum, "told": "SGD with momentum"},
        "adam": {"optimizer": "Adam", "told": f"Adam {fresh}"},
        "adam stepped": {"optimizer": "Adam", "steps": 2, "told": "AdamW after two steps"},
        "momentum stepped": {
            "optimizer": "SGD",
            "options": momentum,
            "steps": 1,
            "told": "SGD with momentum after a step",
        },
        "bfloat16": {"optimizer": "AdamW", "told": f"AdamW {fresh}, in bfloat16"},
        "buffers": {"optimizer": "Adam", "told": f"Adam {fresh}, a large buffer in the model"},
        "tied": {"optimizer": "Adam", "told": f"Adam {fresh}, two layers sharing one weight"},
        "amsgrad": {"optimizer": "AdamW", "options": {"amsgrad": True}, "told": "amsgrad"},
        drawn[0]: {"optimizer": drawn[0], "told": f"{drawn[0]} {fresh}"},
        drawn[1]: {"optimizer": drawn[1], "options": single[drawn[1]], "told": drawn[1]},
        "Adafactor": {"optimizer": "Adafactor", "told": f"Adafactor {fresh}"},
        "own options": {
            "optimizer": "SGD",
            "options": {"lr": 0.1},
            "groups": [{}, {"momentum": 0.9}],
            "told": "SGD whose second parameter group has a momentum of its own",
        },
        "groups": {
            "optimizer": "AdamW",
            "groups": [{"weight_decay": 0.1}, {"weight_decay": 0.0}],
            "told": "AdamW with two parameter groups",
        },
        "head": {"optimizer": "Adam", "told": "Adam over the head alone"},
        "frozen": {"optimizer": "Adam", "told": "Adam over all, one layer frozen from the start"},
        "frozen later": {
            "optimizer": "Adam",
            "steps": 1,
            "told": "Adam after a step, one layer frozen since",
        },
        "sparse": {"optimizer": "SparseAdam", "told": "SparseAdam over nn.Embedding(sparse=True)"},
    }
    traits = ("bfloat16", "buffers", "tied", "head", "frozen", "frozen later", "sparse")
    for name, case in cases.items():
        case["trait"] = name if name in traits else ""
        case["width"] = int(trial.rng.integers(380, 440))
    return cases


@decides("storage_blowup.optimizer_bytes")
def optimizer_bytes(trial: Trial) -> str:
    cases = _optimizer_cases(trial)
    sparse = {"sparse": cases.pop("sparse")}
    sizes = Sizes(trial, cases)
    if bad := sizes.wrong():
        raise Wrong(*_diagnose(sizes, bad))
    report = trial.attempt("storage_blowup_sizes.measure", {"cases": sparse}, seconds=30)[0]
    if report.outcome == "raised":
        raise Wrong(
            "checkpoint_nbytes(model, optimizer) for SparseAdam over nn.Embedding(sparse=True) "
            f"raised {report.details.get('type')}: {str(report.details.get('text'))[:120]}",
            "sparse",
        )
    trial.evidence(report)
    sizes = Sizes(trial, sparse)
    if sizes.wrong():
        raise Wrong(sizes.message("sparse"), "sparse")
    return f"{len(cases) + 1} optimizers and states, each size within 2 % of its file's."


def _diagnose(sizes: Sizes, bad: list[str]) -> tuple[str, str]:
    """(message, likeliest cause), from which cases are wrong and by how much."""
    ordinary = ("sgd", "momentum", "adam")
    # In float32, as many copies too many or too few everywhere: one of these rules of thumb.
    copies = [round(sizes.ratio(name), 1) for name in ordinary]
    if copies == [2.0, 1.0, 0.0]:
        return sizes.message("sgd"), "rule_of_thumb"
    if all(abs(value - 1) < 0.1 for value in copies):
        return sizes.message("sgd"), "gradients_counted"
    causes = {
        "sgd": "momentum_always",
        "momentum": "no_state_yet",
        "adam": "no_state_yet",
        "adam stepped": "state_twice",
        "momentum stepped": "state_twice",
        "bfloat16": "dtype",
        "buffers": "buffers",
        "tied": "tied",
        "amsgrad": "amsgrad",
        "own options": "own_options",
        "groups": "first_group",
        "head": "not_held",
        "frozen": "frozen_state",
        "frozen later": "frozen_later",
    }
    general = [name for name in bad if name not in causes]
    if "groups" in bad and "adam" not in bad:
        return sizes.message("groups"), "first_group"
    if general:
        return sizes.message(general[0]), "by_heart"
    return sizes.message(bad[0]), causes[bad[0]]


@decides("storage_blowup.measuring")
def measuring(trial: Trial) -> str:
    for steps in (0, 3):
        args = {
            "spec": SPEC | {"optimizer": "adamw" if steps else "sgd", "dropout": 0.3},
            "seed": trial.draw_seed(),
            "steps": steps,
        }
        data = draw_data(trial, 4) | draw_data(trial, 3, "2")
        truth = trial.trusted("storage_blowup_sizes.never_measured", args, tensors=data).tensors
        asked = trial.probe("storage_blowup_sizes.measured", args, tensors=data).tensors
        when = f"{steps} steps and a backward pass, then checkpoint_nbytes(model, optimizer)"
        if set(asked.under("optimizer")) - set(truth.under("optimizer")):
            extra = sorted(set(asked.under("optimizer")) - set(truth.under("optimizer")))
            raise Wrong(f"{when}: the optimizer now holds {names(extra)}.", "stepped")
        for part, cause in (
            ("model", "stepped"),
            ("optimizer", "optimizer_moved"),
            ("gradient", "gradients_lost"),
            ("draws", "rng"),
            ("end", "stepped"),
        ):
            if bad := differing(truth.under(part), asked.under(part)):
                what = {
                    "model": "these weights are others now",
                    "optimizer": "the optimizer's state is another",
                    "gradient": "these gradients are gone or others",
                    "draws": "these generators have moved",
                    "end": "training then went another way",
                }[part]
                raise Wrong(f"{when}: {what}: {names(bad)}.", cause)
        if truth["modes"] != asked.get("modes"):
            raise Wrong(f"{when}: train and eval modes are others now.", "mode")
    return "Asked in the middle of a step; training went on as if nobody had asked."


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
    for plan, came in zip(plans, said, strict=True):
        full, best = _counts(**plan)
        want = full * truth["full"] + best * truth["best"]
        if abs(came - want) <= MARGIN * want:
            continue
        told = ", ".join(f"{key}={value!r}" for key, value in plan.items())
        counted = (came - best * truth["best"]) / truth["full"]
        raise Wrong(
            f"run_nbytes(model, optimizer, {told}) returned {_megabytes(came)}; on the disk there "
            f"would be {full} full checkpoints and {best} of weights, {_megabytes(want)}. "
            f"(It counted about {counted:.2f} full ones.)",
            _counting(plan, came, truth),
        )
    return f"{len(plans)} plans, each within 2 % of what would be on the disk."


def _counts(
    epochs: int, keep_last: int, keep_every: int, mode: str | None = "min"
) -> tuple[int, int]:
    """(full checkpoints, files of best weights) after ``epochs`` saves."""
    kept = {n for n in range(1, epochs + 1) if n > epochs - keep_last}
    kept |= {n for n in range(1, epochs + 1) if keep_every and n % keep_every == 0}
    return len(kept), int(mode is not None and epochs > 0)


def _counting(plan: dict[str, Any], came: float, size: dict[str, float]) -> str:
    """Which miscount gives this number."""
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
    near = [cause for cause, value in miscounts.items() if abs(came - value) <= 0.02 * size["full"]]
    return near[0] if near else "counting"


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
            cause = "unit" if any(abs(value / young / f - 1) < 1e-3 for f in (60, 1 / 60)) else cause
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
