"""Incident 06: which weights are the best, and the file that holds them."""

from __future__ import annotations

import math
from typing import Any

from grader.checks.storage_blowup_runs import (
    Directory,
    number_in,
    require_saved,
    save,
    shown,
)
from grader.evidence import differing, names
from grader.judge import Trial, Wrong, decides

KEYS = ("model_state_dict", "epoch", "step", "metric")
FOREIGN = ("best.pt", "best-97.pt.bak", "best_of_all.pt", "my-best-96.pt")


@decides("storage_blowup.best")
def best(trial: Trial) -> str:
    base = int(trial.rng.integers(11, 60))
    u = sorted(float(value) for value in trial.rng.uniform(0.05, 0.9, 4))
    nan = math.nan
    # name: (mode, metrics of consecutive saves, the save that is best, cause if another is)
    plans: dict[str, tuple[str | None, list[float | None], int | None, str]] = {
        "falling": ("min", [u[3], u[1], u[0]], 2, "best"),
        "then worse": ("min", [u[2], u[0], u[1], u[3], u[3]], 1, "pruned"),
        "max": ("max", [u[0], u[2], u[1]], 1, "max"),
        "above one": ("min", [u[1] + 2, u[0] + 2], 1, "start_value"),
        "below zero": ("max", [-u[3] - 1, -u[0] - 1, -u[1] - 1], 1, "start_value"),
        "tie": ("min", [0.5, 0.25, 0.25], 1, "tie"),
        "tie, max": ("max", [0.5, 0.5], 0, "tie"),
        "nan first": ("min", [nan, u[1]], 1, "nan"),
        "nan later": ("min", [u[1], nan], 0, "nan"),
        "nan, max": ("max", [nan, u[0], nan], 1, "nan"),
        "zero": ("min", [u[1], 0.0], 1, "zero"),
        "after zero": ("min", [0.0, u[1]], 0, "zero"),
        "after zero, max": ("max", [0.0, -u[1]], 0, "zero"),
        "close": ("min", [u[1] + 1e-7, u[1]], 1, "rounded"),
        "many digits": ("min", [u[1], u[1]], 0, "rounded"),
        "none": ("min", [None, None], None, "loss_taken"),
        "none later": ("min", [u[1], None], 0, "loss_taken"),
        "no mode": (None, [u[1], u[0]], None, "no_mode"),
    }
    # In two processes: a save may be slow.
    for part in (list(plans)[::2], list(plans)[1::2]):
        chosen = {name: plans[name] for name in part}
        script: list[dict[str, Any]] = []
        for name, (_, metrics, _, _) in chosen.items():
            place = {"in": name, "loss": float(u[0] / 7).hex()}
            script += [save(base + n, metric, **place) for n, metric in enumerate(metrics)]
            script += [{"do": "best", "in": name}]
        directory = Directory(trial)
        managers = {name: {"keep_last": 2, "mode": plan[0]} for name, plan in chosen.items()}
        log = directory.process(*script, managers=managers)
        for name, (mode, metrics, want, cause) in chosen.items():
            mine, log = log[: len(metrics) + 1], log[len(metrics) + 1 :]
            told = ", ".join("–" if m is None else f"{m:.4g}" for m in metrics)
            case = f"mode={mode!r}, metrics {told}"
            for entry in mine:
                require_saved(entry, case, cause)
            expected = [] if want is None else [base + want]
            got, said = directory.best(name), number_in(mine[-1].get("value"))
            if got != expected:
                also = "two_best" if len(got) > 1 and set(expected) < set(got) else cause
                raise Wrong(
                    f"{case}, saved as {base}, {base + 1}, …: the best file is to be "
                    f"{shown(expected)}; on the disk are {shown(got)}.",
                    also,
                )
            if said != (expected[0] if expected else None):
                raise Wrong(f"{case}: best() is {mine[-1].get('value')!r}.", cause)
    return f"{len(plans)} runs of metrics: ties, NaN, zero, both modes; one best file at most."


@decides("storage_blowup.best_file")
def best_file(trial: Trial) -> str:
    base = int(trial.rng.integers(11, 60))
    u = sorted(float(value) for value in trial.rng.uniform(0.05, 0.9, 4))
    directory = Directory(trial, spec={"optimizer": "adamw", "lr": 0.02, "schedule": "step"},
                          keep_last=2, mode="min")  # fmt: skip
    kind = str(trial.rng.choice(["tensor", "numpy"]))
    epoch, step = base, base + int(trial.rng.integers(200, 300))
    loss = {"loss": float(u[3] + 1).hex()}
    log = directory.process(save(epoch, u[1], kind=kind, step=step, **loss))
    case = f"save(…, epoch={epoch}, step={step}, metric=<{kind}>)"
    require_saved(log[0], case, "metric_type")
    _require_content(directory, case, epoch, step, u[1], float.fromhex(loss["loss"]))
    _restart(directory, u, step)
    _two_best(trial, u, base)
    _damaged(directory, u, step)
    _no_mode(directory, step)
    _foreign(trial, u, base)
    return "The best file holds weights and a metric, and a new process goes by it."


def _require_content(
    directory: Directory, case: str, epoch: int, step: int, metric: float, loss: float
) -> None:
    if directory.best() != [step]:
        raise Wrong(
            f"{case}: one best file, of number {step}, is to be there; there are "
            f"{shown(directory.best())}.",
            "best_missing",
        )
    name = directory.file(step, "best")
    if name not in directory.files:
        raise Wrong(f"{case}: {name} is a link, and no file of its own.", "best_content")
    looked = directory.look()
    facts = looked.facts.get(name, {"sound": False})
    if not facts["sound"]:
        raise Wrong(f"{case}: {name} is no file that torch.load's default opens.", "best_content")
    keys = facts["keys"] or []
    if absent := [key for key in KEYS if key not in keys]:
        raise Wrong(f"{case}: {name} lacks {names(absent)}; it has {names(keys, 6)}.", "best_keys")
    if looked.tensors.under(f"{name}/optimizer"):
        raise Wrong(f"{case}: {name} holds the optimizer's state too.", "best_full")
    if facts["metric"] is None:
        raise Wrong(
            f"{case}: the file's metric is a {facts['metric_type']}; it is to be a float.",
            "metric_type",
        )
    if (came := float.fromhex(facts["metric"])) != metric:
        cause = "loss_taken" if came == loss else "rounded"
        raise Wrong(f"{case} of {metric!r}: the file's metric is {came!r}.", cause)
    if [facts["epoch"], facts["step"]] != [epoch, step]:
        raise Wrong(f"{case}: the file has epoch {facts['epoch']}, step {facts['step']}.",
                    "best_keys")  # fmt: skip
    full = looked.tensors.under(f"{directory.file(step)}/model")
    if bad := differing(full, looked.tensors.under(f"{name}/model")):
        raise Wrong(f"{case}: these weights are not the model's: {names(bad)}.", "best_content")
    if others := directory.others():
        raise Wrong(f"{case}: beside the two files there is {names(others)}.", "best_litter")


def _restart(directory: Directory, u: list[float], step: int) -> None:
    there = directory.copy()
    log = there.process({"do": "best"}, save(step + 1, u[2]), {"do": "best"})
    case = f"On the disk best {step}, metric {u[1]:.4f}. A new process"
    if (came := number_in(log[0].get("value"))) != step:
        raise Wrong(f"{case}: best() is {came}.", "best_forgotten")
    require_saved(log[1], case)
    if there.best() != [step]:
        raise Wrong(
            f"{case} saves {step + 1} with the worse {u[2]:.4f} (mode='min'): the best file is to "
            f"stay {step}; on the disk are {shown(there.best())}.",
            "best_forgotten",
        )
    again = directory.copy()
    log = again.process(save(step + 1, u[0]))
    require_saved(log[0], case)
    if again.best() != [step + 1]:
        raise Wrong(
            f"{case} saves {step + 1} with the better {u[0]:.4f}: the best file is to be "
            f"{step + 1}; on the disk are {shown(again.best())}.",
            "two_best" if len(again.best()) > 1 else "best_forgotten",
        )


def _two_best(trial: Trial, u: list[float], base: int) -> None:
    """Killed between write and delete: two best files. The better counts, older or newer."""
    for mode, older_better in (("min", True), ("min", False), ("max", True), ("max", False)):
        metrics = (u[0], u[2]) if older_better == (mode == "min") else (u[2], u[0])
        one, two = Directory(trial, mode=mode), Directory(trial, mode=mode)
        one.process(save(base, metrics[0]))
        two.process(save(base + 1, metrics[1]))
        both = one.copy()
        both.files |= two.files
        want = base if older_better else base + 1
        log = both.process({"do": "best"}, save(base + 2, u[1]), {"do": "best"})
        case = f"Two best files: {base} with {metrics[0]:.4f}, {base + 1} with {metrics[1]:.4f}"
        if log[0]["raised"] or (came := number_in(log[0].get("value"))) != want:
            came = log[0]["raised"] or came
            raise Wrong(
                f"{case}; mode={mode!r}: best() is to be {want}; it is {came}.", "two_files"
            )
        require_saved(log[1], case)
        # The other one may stay until there is a better one.
        if want not in both.best() or base + 2 in both.best() or number_in(log[2]["value"]) != want:
            raise Wrong(
                f"{case}; then a save with {u[1]:.4f}: the best file is to be {want}; on the disk "
                f"are {shown(both.best())}, and best() is {log[2]['value']}.",
                "two_files",
            )


def _damaged(directory: Directory, u: list[float], step: int) -> None:
    there = directory.copy()
    name = there.file(step, "best")
    there.damaged({name: "flip"})
    log = there.process({"do": "best"}, save(step + 1, u[3]), {"do": "best"})
    case = f"{name} has one flipped bit. A new process"
    if log[0]["raised"]:
        raise Wrong(f"{case}: best() raised {log[0]['raised']}.", "damaged_best")
    if log[0].get("value") is not None:
        raise Wrong(f"{case}: best() returned it.", "damaged_best")
    said = " ".join(log[0]["warnings"] + log[1].get("warnings", []))
    if not log[0]["warnings"] or f"{step}.pt" not in said:
        raise Wrong(f"{case}: best() is to name it in a warning; it said {said[:120]!r}.",
                    "damaged_silent")  # fmt: skip
    require_saved(log[1], f"{case}, a save with a metric", "damaged_best")
    if number_in(log[2].get("value")) != step + 1:
        raise Wrong(
            f"{case} saves {step + 1} with a metric, the first that is known: best() is to be "
            f"{step + 1}; it is {log[2].get('value')!r}.",
            "damaged_best",
        )


def _no_mode(directory: Directory, step: int) -> None:
    there = directory.copy()
    there.manager = {"keep_last": 2, "mode": None}
    log = there.process({"do": "best"}, save(step + 1, 0.01), {"do": "best"})
    require_saved(log[1], "mode=None on a directory with a best file: a save")
    if any(entry["raised"] or entry.get("value") for entry in (log[0], log[2])):
        raise Wrong("mode=None on a directory with a best file: best() is to be None.", "no_mode")
    if step + 1 in there.best():
        raise Wrong("mode=None: a save with a metric wrote a best file.", "no_mode")


def _foreign(trial: Trial, u: list[float], base: int) -> None:
    there = Directory(trial, keep_last=2, mode="min")
    foreign = {f"run/{name}": trial.rng.bytes(40) for name in FOREIGN}
    there.files = dict(foreign)
    log = there.process({"do": "best"}, save(base, u[1]), save(base + 1, u[0]), {"do": "best"})
    case = f"A directory with other people's {names(FOREIGN)}"
    for entry in log:
        require_saved(entry, case, "foreign_read")
    if log[0]["value"] or number_in(log[-1]["value"]) != base + 1:
        raise Wrong(
            f"{case}, two saves: best() is to be None before and {base + 1} after; it was "
            f"{log[0]['value']} and {log[-1]['value']}.",
            "foreign_read",
        )
    if gone := [name for name, data in foreign.items() if there.files.get(name) != data]:
        raise Wrong(f"{case}: after two better metrics {names(gone)} is gone.", "foreign_deleted")
