"""Incident 05, task 2: a migrated run goes on to the bit, nothing moves, and nothing is guessed."""

from __future__ import annotations

from typing import Any

import numpy as np

from grader.checks import diagnose
from grader.checks.resumed import draw_batches
from grader.checks.version_breakage_migrate import (
    UNSTAMPED_PARTS,
    V2_PARTS,
    V3_PARTS,
    draw_recipe,
    unopened,
    write_old,
)
from grader.checks.version_breakage_names import compare, draw_names, short, shown
from grader.evidence import differing, names
from grader.judge import Trial, Wrong, decides


@decides("version_breakage.trains_on")
def trains_on(trial: Trial) -> str:
    schedule = str(trial.rng.choice(["step", "cosine", "exponential"]))
    optimizer = str(trial.rng.choice(["sgd", "adamw"]))
    spec = {"optimizer": optimizer, "lr": 0.02, "schedule": schedule}
    steps = 2 * int(trial.rng.integers(3, 6)) + 1
    start = {"spec": spec, "seed": trial.draw_seed()}
    cuda = [int(n) for n in trial.rng.integers(0, 256, 2)]
    before = draw_batches(trial, steps)
    told = {"epoch": int(trial.rng.integers(2, 40)), "cuda": cuda}
    old = trial.trusted("version_breakage_migrate.train_old", start | told, tensors=before)
    new = trial.probe("version_breakage_migrate.bring_up", {"labels": ["old"]}, files=old.files)
    did = f"Trained {steps} steps, saved as v2, migrated"
    if new.facts["old"]["raised"]:
        raise Wrong(f"{did}: migrate raised {shown(new.facts['old'])}", "rejects_good")
    if "new-old.pt" not in new.files:
        raise Wrong(f"{did}: torch.save could not store the result.", "unsaved")
    after = draw_batches(trial, 8)
    files = {"new-old.pt": new.files["new-old.pt"]}
    again = {"spec": spec, "seed": trial.draw_seed()}
    resumed = trial.trusted("version_breakage_migrate.train_on", again, tensors=after, files=files)
    _require_complete(did, new.facts["old"]["keys"], resumed.facts, cuda)
    both = before | {f"{name}2": array for name, array in after.items()}
    truth = trial.trusted("version_breakage_migrate.train_through", start, tensors=both)
    for step in range(9):
        where = f"step{step}" if step else "loaded/model"
        if differing(truth.tensors.under(where), resumed.tensors.under(where)):
            detail, cause = (
                diagnose.weights(truth.tensors, resumed.tensors)
                or diagnose.optimizer(truth.tensors, resumed.tensors)
                or diagnose.later_rates(truth.facts, resumed.facts)
                or diagnose.generators(truth.tensors, resumed.tensors)
                or ("Weights, optimizer and generators looked right.", "")
            )
            raise Wrong(
                f"{did}, trained on from the result. First difference: step {steps + step}.\n"
                + detail.replace("came back", "came through").replace("save", "migration"),
                cause if cause.startswith("rng_") else "part_changed",
            )
    want = truth.tensors.under("end")
    if bad := differing(want, resumed.tensors.under("end")):
        raise Wrong(
            f"{did}, trained on from the result: the weights agree, {names(bad)} does not.",
            "rng_" + ("all" if len(bad) >= 3 else bad[0].removeprefix("draws/").split(":")[0]),
        )
    return f"{did}, trained on ({optimizer}, {schedule}): 8 steps, equal to the bit."


def _require_complete(did: str, keys: list[str], facts: dict[str, Any], cuda: list[int]) -> None:
    failed = facts["failed"]
    if failed == "open":
        raise Wrong(*unopened(did, keys, facts["blocked"]))
    if facts["numpy_keys"] not in (None, "torch.int64"):
        raise Wrong(
            f"{did}: rng_state's NumPy keys are to be an int64 tensor; they are "
            f"{facts['numpy_keys']}.",
            "numpy_format",
        )
    if failed:
        part = failed.rpartition(", ")[2]
        cause = f"rng_{part}" if failed.startswith("rng_state,") else "part_changed"
        raise Wrong(f"{did}: the result's {failed} cannot be put back ({facts['text']}).", cause)
    if facts["cuda"] != [[n] * 16 for n in cuda]:
        raise Wrong(
            f"{did}: the v2 file held the states of {len(cuda)} CUDA generators; the result holds "
            f"{len(facts['cuda'])}, or others.",
            "rng_cuda",
        )


@decides("version_breakage.pure")
def pure(trial: Trial) -> str:
    recipes = {
        "v1": draw_recipe(trial, "v1", ["epoch"]),
        "v2": draw_recipe(trial, "v2", V2_PARTS),
        "unstamped": draw_recipe(trial, "unstamped", UNSTAMPED_PARTS),
        "stamped": draw_recipe(trial, "stamped", V3_PARTS),
    }
    v1 = {"v1": [f"module.{name}" for name in draw_names(trial, 3)]}
    written = write_old(trial, recipes, v1)
    args = {"seeds": {label: trial.draw_seed() for label in recipes}}
    came = trial.probe("version_breakage_migrate.watch", args, files=written.files)
    truth = trial.trusted("version_breakage_migrate.draws", args).tensors
    for label in recipes:
        case, fact = f"migrate(a {label} checkpoint)", came.facts[label]
        if fact["raised"]:
            raise Wrong(f"{case} raised {shown(fact)}", "rejects_good")
        if found := compare(written.facts["leaves"][label], fact["after"]):
            path, want, got = found
            raise Wrong(
                f"{case} changed its argument: under {path[1:]} there was {short(want)}, and is "
                f"now {short(got)}.",
                "changes_argument",
            )
        if moved := differing(truth.under(label), came.tensors.under(label)):
            raise Wrong(f"{case} moved {names(moved)}: the next draw is another one.", "moves")
        for name, said, cause in (
            ("twice", f"migrate(migrate(a {label} checkpoint))", "not_idempotent"),
            ("again", f"{case}, a second time", "changes_argument"),
        ):
            result = fact[name]
            if result["raised"]:
                raise Wrong(f"{said} raised {shown(result)}", cause)
            if found := compare(fact["once"], result["leaves"]):
                path, want, got = found
                raise Wrong(
                    f"{said}: under {path[1:]} the first pass gave {short(want)}, the second "
                    f"{short(got)}.",
                    cause,
                )
    return "Nothing was changed on the way, no generator moved, and a second pass changes nothing."


@decides("version_breakage.versions")
def versions(trial: Trial) -> str:
    newer, other = (int(n) for n in trial.rng.choice(np.arange(41, 99), 2, replace=False))
    modern, old = {"model_state_dict": "weights"}, {"model": "weights", "epoch": 3}
    accepted = "newer_accepted"
    cases: dict[str, tuple[Any, str]] = {
        f'{{"format_version": {newer}, …}}': ({"format_version": newer} | modern, accepted),
        '{"format_version": 4, …}': ({"format_version": 4} | modern, accepted),
        f'{{"version": {other}, …}}': ({"version": other} | old, accepted),
        '{"version": 0, …}': ({"version": 0} | old, "never_was"),
        '{"version": 1, …}': ({"version": 1} | old, "never_was"),
        '{"version": "2", …}': ({"version": "2"} | old, "never_was"),
        '{"version": None, …}': ({"version": None} | old, "never_was"),
        '{"format_version": 0, …}': ({"format_version": 0} | modern, "never_was"),
        '{"format_version": "3", …}': ({"format_version": "3"} | modern, "never_was"),
        "{}": ({}, "no_model"),
        '{"epoch": 1}': ({"epoch": 1}, "no_model"),
        '{"version": 2, "epoch": 1}': ({"version": 2, "epoch": 1}, "no_model"),
        '{"format_version": 3}': ({"format_version": 3}, "no_model"),
    }
    cases |= {f"<{odd}>": (odd, "no_dict") for odd in ("a list", "a tensor", "None", "a text")}
    cases["<a module>"] = ("a module", "no_dict")
    order = [list(cases)[int(i)] for i in trial.rng.permutation(len(cases))]
    weights = {draw_names(trial, 1)[0]: trial.rng.standard_normal(3).astype(np.float32)}
    args = {"cases": {label: cases[label][0] for label in order}}
    came = trial.probe("version_breakage_migrate.refuse", args, tensors=weights).facts
    if came["environment"] != ["str"]:
        raise Wrong(
            "environment() is to hold str and nothing else, keys and values; it holds "
            f"{names(came['environment'])}.",
            "environment_types",
        )
    for label, (case, cause) in cases.items():
        fact = came[label]
        if not fact["raised"]:
            raise Wrong(f"migrate({label}) returned; expected a CheckpointError.", cause)
        if "CheckpointError" not in fact["bases"]:
            raise Wrong(
                f"migrate({label}): expected a CheckpointError; came {shown(fact)}",
                "wrong_exception",
            )
        if cause == accepted:
            version = case.get("format_version", case.get("version"))
            digits = "".join(c if c.isdecimal() else " " for c in fact["text"]).split()
            if not {str(version), "3"} <= set(digits):
                raise Wrong(
                    f"migrate({label}): the message is to name both versions, {version} and ours, "
                    f"3: {fact['text']!r}",
                    "versions_unnamed",
                )
    return f"{len(cases)} that are newer, never were, or are no checkpoints: refused by name."
