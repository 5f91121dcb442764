"""Incident 06: sizes before training, what asking disturbs, and how often to save."""

from __future__ import annotations

from typing import Any

from grader.checks.storage_blowup_runs import SPEC, draw_data
from grader.evidence import differing, names
from grader.judge import Trial, Wrong, decides

MARGIN = 0.02


def megabytes(size: float) -> str:
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
            f"{call} for {case['told']}: it returned {megabytes(self.said[name])}; the file has "
            f"{megabytes(self.true[name])} ({off:+.0%})."
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
        "many": "a model of hundreds of small layers",
    }
    cases = {
        trait: {"trait": trait, "told": text, "width": int(trial.rng.integers(560, 640))}
        for trait, text in told.items()
    }
    sizes = Sizes(trial, cases)
    if bad := sizes.wrong():
        causes = {
            "bfloat16": "dtype",
            "float64": "dtype",
            "plain": "bytes",
            "many": "small_tensors",
        }
        raise Wrong(sizes.message(bad[0]), causes.get(bad[0], bad[0]))
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
        "many": {"optimizer": "Adam", "told": f"Adam {fresh}, hundreds of small layers"},
        "sparse": {"optimizer": "SparseAdam", "told": "SparseAdam over nn.Embedding(sparse=True)"},
    }
    traits = ("bfloat16", "buffers", "tied", "head", "frozen", "frozen later", "many", "sparse")
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
        "many": "small_tensors",
    }
    general = [name for name in bad if name not in causes]
    if "groups" in bad and "adam" not in bad:
        return sizes.message("groups"), "first_group"
    if "adam" in bad and "adam stepped" not in bad:
        return sizes.message("adam"), "no_state_yet"
    if "adam stepped" in bad and "adam" not in bad:
        return sizes.message("adam stepped"), "state_twice"
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
        if truth["modes"] != asked.get("modes"):
            raise Wrong(f"{when}: train and eval modes are others now.", "mode")
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
            extra = sorted(set(asked.under(part)) - set(truth.under(part)))
            if part == "optimizer" and extra:
                raise Wrong(f"{when}: the optimizer now holds {names(extra)}.", cause)
    return "Asked in the middle of a step; training went on as if nobody had asked."
