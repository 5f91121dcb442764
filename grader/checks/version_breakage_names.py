"""Incident 05: drawn names, and how a difference is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grader.judge import Trial

# None is an attribute of nn.Module, none begins another one.
WORDS = ["anchor", "basin", "cedar", "delta", "ember", "falcon", "grove", "harbor", "island", "juniper", "kernel", "lagoon", "meadow", "nebula", "orchid", "pebble", "quartz", "ripple", "summit", "timber", "valley", "willow"]
KINDS = ("weight", "bias", "gain", "scale")
MISSING = object()


def draw_word(trial: Trial) -> str:
    """A word with a number: no drawn name is part of another by chance."""
    return f"{trial.rng.choice(WORDS)}{trial.rng.integers(100, 999)}"


def draw_name(trial: Trial, *prefix: str) -> str:
    """A parameter's dotted name: ``meadow417.weight``, below ``prefix`` if one is given."""
    return ".".join([*prefix, draw_word(trial), str(trial.rng.choice(KINDS))])


def short(leaf: Any) -> str:
    """A leaf (see probes.version_breakage.leaves) as a message shows it."""
    if leaf is MISSING:
        return "nothing"
    kind, _, value = str(leaf).partition(" ")
    if kind == "float":
        return repr(float.fromhex(value))
    if kind in ("str", "int", "bool", "NoneType"):
        return value[:60]
    return " ".join(str(leaf).split(" ")[:1 + 3])[:60] + " …"


def compare(want: Mapping[str, str], got: Mapping[str, str]) -> tuple[str, Any, Any] | None:
    """(path, wanted leaf, leaf that came) of the first difference; None if there is none."""
    for path in [*want, *(path for path in got if path not in want)]:
        if want.get(path, MISSING) != got.get(path, MISSING):
            return path, want.get(path, MISSING), got.get(path, MISSING)
    return None


def first_difference(want: Mapping[str, str], got: Mapping[str, str]) -> str | None:
    """The first difference as a sentence."""
    if (found := compare(want, got)) is None:
        return None
    path, wanted, came = found
    return f"at {path or 'the top'} expected {short(wanted)}, got {short(came)}."


def shown(came: Mapping[str, Any]) -> str:
    """What a call raised, in one line."""
    if not came["raised"]:
        return "no error."
    return f"{came['raised']}: {came['text'].strip().partition(chr(10))[0][:200]}"
