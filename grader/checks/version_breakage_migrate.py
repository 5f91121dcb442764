"""Incident 05, task 2: names and keys of every format become v3's."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

import numpy as np

from grader.checks.version_breakage_names import (
    MISSING,
    compare,
    draw_names,
    fresh_words,
    short,
    shown,
)
from grader.evidence import names
from grader.judge import Trial, Wrong, decides

RENAMED = ("model", "optimizer", "scheduler")
V2_PARTS = ("epoch", "optimizer", "scheduler", "loss", "rng", "torch")
UNSTAMPED_PARTS = ("epoch", "optimizer", "scheduler", "loss", "rng")
V3_PARTS = (*UNSTAMPED_PARTS, "environment")


def draw_recipe(trial: Trial, kind: str, parts: Any, **options: Any) -> dict[str, Any]:
    """A checkpoint of format ``kind`` with these ``parts``, and keys that no version knows."""
    version = f"1.{trial.rng.integers(8, 14)}.{trial.rng.integers(3)}+cu{trial.rng.integers(99)}"
    words = fresh_words(trial)
    keep = {
        next(words): {"width": int(trial.rng.integers(9, 99)), "name": next(words)},
        f"{next(words)}_state_dict": {"decay": float(trial.rng.uniform()), "on": True},
    }
    recipe = {
        "format": kind,
        "parts": list(parts),
        "seed": trial.draw_seed(),
        "drawn": int(trial.rng.integers(3, 40)),
        "cuda": int(trial.rng.integers(1, 3)),
        "epoch": int(trial.rng.integers(1, 90)),
        "loss": float(trial.rng.uniform(0.1, 2)).hex(),
        "torch": version,
        "keep": keep,
        "falsy": False,
        "environment": {"torch": version, "site": next(words)},
    }
    return recipe | options


def write_old(trial: Trial, recipes: dict[str, Any], given: dict[str, list[str]]) -> Any:
    """The recipes' files. ``given`` has each one's parameter names; without: three drawn ones."""
    tensors = {}
    for label in recipes:
        for name in given.get(label) or draw_names(trial, 3):
            shape = tuple(int(n) for n in trial.rng.integers(1, 4, 2))
            tensors[f"{label}:{name}"] = trial.rng.standard_normal(shape).astype(np.float32)
    args = {"checkpoints": recipes}
    return trial.trusted("version_breakage_migrate.write_old", args, tensors=tensors)


def expected(old: dict[str, str], kind: str) -> dict[str, str]:
    """v3's leaves, from the old checkpoint's. What is in ``rng_state`` is another check's."""
    new = {} if kind == "stamped" else {"/format_version": "int 3", "/environment": "an empty dict"}
    for path, leaf in old.items():
        top, _, rest = path[1:].partition("/")
        rest = f"/{rest}" if rest else ""
        if top in ("rng", "rng_state"):
            new["/rng_state"] = "there"
        elif kind in ("stamped", "unstamped"):
            new[path] = leaf
        elif top == "torch":
            new["/environment/torch"] = leaf.replace("TorchVersion ", "str ")
            new.pop("/environment")
        elif top == "model" and kind == "v1":
            new[f"/model_state_dict/{rest[1:].removeprefix('module.')}"] = leaf
        elif top in RENAMED:
            new[f"/{top}_state_dict{rest}"] = leaf
        elif top == "loss":
            number = float(leaf.partition("(")[2].rstrip(")") or leaf.partition(" ")[2])
            new[path] = f"float {number.hex()}"
        elif top != "version":
            new[path] = leaf
    return new


def _without_rng(leaves: dict[str, str]) -> dict[str, str]:
    rest = {path: leaf for path, leaf in leaves.items() if not path.startswith("/rng_state")}
    return rest | ({"/rng_state": "there"} if len(rest) < len(leaves) else {})


def bring_up(trial: Trial, written: Any, told: dict[str, str]) -> dict[str, Any]:
    """Have every file migrated: ``label -> leaves`` of what the results hold."""
    labels = [list(told)[int(i)] for i in trial.rng.permutation(len(told))]
    args = {"labels": labels}
    came = trial.probe("version_breakage_migrate.bring_up", args, files=written.files)
    files = {name: data for name, data in came.files.items() if name.startswith("new-")}
    held = trial.trusted("version_breakage_migrate.inspect_new", files=files).facts
    leaves = {}
    for label, case in told.items():
        fact = came.facts[label]
        if fact["raised"]:
            raise Wrong(f"migrate({case}) raised {shown(fact)}", "rejects_good")
        if label not in held:
            raise Wrong(f"torch.save could not store what migrate({case}) returned.", "unsaved")
        if not held[label]["opens"]:
            raise Wrong(*unopened(f"migrate({case})", fact["keys"], held[label]["blocked"]))
        leaves[label] = held[label]["leaves"]
    return leaves


def unopened(case: str, keys: list[str], blocked: list[str]) -> tuple[str, str]:
    """(message, cause) for a result that torch.load's default refuses once it has been saved."""
    if "torch" in keys or "version" in keys:
        return f"{case} has v2's own keys: {names(keys, 12)}.", "old_key_stays"
    said = f"{case}, saved: torch.load's default refuses the file. Blocked: {names(blocked)}."
    version = any("TorchVersion" in name for name in blocked)
    return said, "version_object" if version else "numpy_stays"


@decides("version_breakage.old_names")
def old_names(trial: Trial) -> str:
    a, b, c = islice(fresh_words(trial), 3)
    bare = [
        f"{a}.weight",
        f"sub_module.{a}.weight",
        f"module.{b}.weight",
        f"{c}.module.bias",
        f"embed.{b}.weight",
        f"dule.{c}.bias",
        f"modulex.{a}.gain",
    ]
    bare = [bare[int(i)] for i in trial.rng.permutation(len(bare))]
    given = {
        "v1": [f"module.{name}" for name in bare],
        "v2": bare,
        "unstamped": bare,
        "stamped": bare,
    }
    parts = {kind: ["epoch", "environment"] if kind == "stamped" else ["epoch"] for kind in given}
    recipes = {kind: draw_recipe(trial, kind, parts[kind]) for kind in given}
    written = write_old(trial, recipes, given)
    got = bring_up(trial, written, {kind: f"a {kind} checkpoint" for kind in given})
    for kind, old in given.items():
        want = {
            path: leaf
            for path, leaf in expected(written.facts["leaves"][kind], kind).items()
            if path.startswith("/model_state_dict/")
        }
        if not any(path.startswith("/model_state_dict/") for path in got[kind]):
            tops = sorted({path.split("/")[1] for path in got[kind]})
            raise Wrong(
                f"migrate(a {kind} checkpoint) returned the keys {names(tops, 9)}: there is no "
                '"model_state_dict".',
                "stops_early",
            )
        for before in old:
            name = before.removeprefix("module.") if kind == "v1" else before
            leaf = got[kind].get(f"/model_state_dict/{name}")
            if leaf is None:
                raise Wrong(
                    f"migrate(a {kind} checkpoint): {before} is to become {name}; that name is "
                    f"not in the result. There are {names(_names_in(got[kind]), 9)}.",
                    _name_cause(kind, name, old, got[kind]),
                )
            if leaf != want[f"/model_state_dict/{name}"]:
                raise Wrong(
                    f"migrate(a {kind} checkpoint): {before} became {name}, and another tensor.",
                    "other_tensor",
                )
    return (
        f"{len(bare)} names of each format: one leading module. goes from v1's, none from others'."
    )


def _names_in(leaves: dict[str, str]) -> list[str]:
    start = "/model_state_dict/"
    return sorted(path.removeprefix(start) for path in leaves if path.startswith(start))


PREFIX = "module."
# What people write for "without DDP's prefix", by the cause it is.
SLIPS = {
    "prefix_repeatedly": lambda name: re.sub(rf"^({re.escape(PREFIX)})+", "", name),
    "prefix_inside": lambda name: name.replace(PREFIX, ""),
    "prefix_letters": lambda name: name.lstrip(PREFIX),
}


def _name_cause(kind: str, missing: str, old: list[str], leaves: dict[str, str]) -> str:
    """The slip that makes all ``old`` names what they became; else what became of ``missing``."""
    there = _names_in(leaves)
    if kind != "v1":
        return "strips_newer"
    for cause, slip in SLIPS.items():
        if sorted(set(map(slip, old))) == there:
            return cause
    if PREFIX + missing in there:
        return "prefix_stays"
    if missing.replace(PREFIX, "") in there:
        return "prefix_repeatedly" if missing.startswith(PREFIX) else "prefix_inside"
    return "prefix_letters"


@decides("version_breakage.to_v3")
def to_v3(trial: Trial) -> str:
    some = [part for part in V2_PARTS if trial.rng.integers(2)]
    recipes = {
        "v1": draw_recipe(trial, "v1", ["epoch"]),
        "full": draw_recipe(trial, "v2", V2_PARTS),
        "bare": draw_recipe(trial, "v2", []),
        "some": draw_recipe(trial, "v2", some),
        "falsy": draw_recipe(trial, "v2", V2_PARTS[:4], falsy=True),
        "unstamped": draw_recipe(trial, "unstamped", UNSTAMPED_PARTS),
        "stamped": draw_recipe(trial, "stamped", V3_PARTS),
        "own version": draw_recipe(trial, "stamped", V3_PARTS, keep={"version": "2.1"}),
        "own model": draw_recipe(trial, "unstamped", UNSTAMPED_PARTS, keep={"model": "resnet18"}),
    }
    told = {
        "v1": "a v1 checkpoint",
        "full": "a v2 checkpoint with everything in it",
        "bare": "a v2 checkpoint with nothing but weights",
        "some": f"a v2 checkpoint with {names(some, 9) or 'nothing but weights'}",
        "falsy": "a v2 checkpoint with epoch 0, loss 0.0, optimizer {}, scheduler None",
        "unstamped": "a v3 checkpoint without format_version",
        "stamped": "a v3 checkpoint",
        "own version": 'a v3 checkpoint in which somebody also put "version": "2.1"',
        "own model": 'a v3 checkpoint without format_version, with somebody\'s "model": "resnet18"',
    }
    v1 = {"v1": [f"module.{name}" for name in draw_names(trial, 3)]}
    written = write_old(trial, recipes, v1)
    got = bring_up(trial, written, told)
    for label, case in told.items():
        old, kind = written.facts["leaves"][label], recipes[label]["format"]
        found = compare(expected(old, kind), _without_rng(got[label]))
        if found:
            path, want, came = found
            raise Wrong(
                f"migrate({case}): under {path[1:]} expected {short(want)}, got {short(came)}.",
                _part_cause(path, want, came, label),
            )
    return f"{len(told)} checkpoints of every format became v3, key for key."


def _part_cause(path: str, want: Any, came: Any, label: str) -> str:
    top = path.split("/")[1]
    if label.startswith("own ") and came is MISSING:
        return "unknown_dropped"
    if top == "environment":
        return "environment"
    if top == "format_version":
        return "not_stamped"
    if top in ("model", "version", "torch", "optimizer", "scheduler", "rng"):
        return "old_key_stays"
    if want is MISSING:
        return "invented"
    if label == "falsy" and came is MISSING:
        return "falsy_dropped"
    if top in ("epoch", "loss"):
        return f"{top}_changed"
    return "unknown_dropped" if not top.startswith(RENAMED) else "part_changed"
