"""Incident 05: drawn names, and how a difference is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grader.judge import Trial

# None is an attribute of nn.Module, none begins another one.
WORDS = [
    "anchor",
    "basin",
    "cedar",
    "delta",
    "ember",
    "falcon",
    "grove",
    "harbor",
    "island",
    "juniper",
    "kernel",
    "lagoon",
    "meadow",
    "nebula",
    "orchid",
    "pebble",
    "quartz",
    "ripple",
    "summit",
    "timber",
    "valley",
    "willow",
]
KINDS = ("weight", "bias", "gain", "scale")
MISSING = object()


def fresh_words(trial: Trial) -> Iterator[str]:
    """Words with a number, in a drawn order: no two are alike, none is part of another."""
    for code in trial.rng.permutation(900 * len(WORDS)):
        yield f"{WORDS[code % len(WORDS)]}{100 + code // len(WORDS)}"


def draw_names(trial: Trial, count: int, words: Iterator[str] | None = None) -> list[str]:
    """Dotted names of parameters, like ``meadow417.weight``."""
    words = words or fresh_words(trial)
    return [f"{next(words)}.{trial.rng.choice(KINDS)}" for _ in range(count)]


def short(leaf: Any) -> str:
    """A leaf (see probes.version_breakage.leaves) as a message shows it."""
    if leaf is MISSING:
        return "nothing"
    kind, _, value = str(leaf).partition(" ")
    if kind == "float":
        return repr(float.fromhex(value))
    if kind in ("str", "int", "bool", "NoneType"):
        return value[:60]
    return " ".join(str(leaf).split(" ")[:4])[:60] + " …"


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
