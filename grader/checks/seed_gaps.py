"""Incident 02: the same seed, the same run; if not, which source was left open."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from grader.checks.seed_gaps_fresh import fresh
from grader.evidence import Evidence, differing, names
from grader.judge import Trial, Wrong, decides

GENERATORS = {
    "python": "Python's random",
    "numpy": "NumPy's global generator",
    "torch": "torch's CPU generator",
}
OFF = {
    "cudnn.deterministic": False,
    "cudnn.benchmark": False,
    "algorithms": False,
    "warn_only": False,
}
ON = OFF | {"cudnn.deterministic": True, "algorithms": True}
VALID = (":4096:8", ":16:8")
SLOW = 40.0  # seconds: many calls in one probe, and a function may take its time


def told_names(generators: list[str]) -> str:
    return names(GENERATORS.get(name, name) for name in generators)


def cause_of(generators: list[str]) -> str:
    """A cause by generator; several at once have a cause of their own."""
    return generators[0].split(":")[0] if len(generators) == 1 else "several"


@decides("seed_gaps.streams")
def streams(trial: Trial) -> str:
    seed = int(trial.rng.integers(2, 2**31))
    here = [seed, seed, seed + 1, 0, 0, 2**32 - 1, seed]
    there = [2**32 - 1, 0, seed]
    first = trial.probe("seed_gaps.streams", {"seeds": here, "options": {}}).tensors
    options = {"deterministic": False}
    other = trial.probe("seed_gaps.streams", {"seeds": there, "options": options}).tensors
    for number, chosen in enumerate(there):
        if bad := differing(first.under(str(here.index(chosen))), other.under(str(number))):
            raise Wrong(
                f"set_seed({chosen}) in two processes: then {told_names(bad)} drew something else "
                "in the one than in the other.",
                "seed_zero" if not chosen and number else _open(bad),
            )
    for number in (1, 4, 6):
        chosen = here[number]
        if bad := differing(first.under(str(here.index(chosen))), first.under(str(number))):
            raise Wrong(
                f"In one process: set_seed({chosen}), some draws, set_seed({chosen}) again. Then "
                f"{told_names(bad)} did not start again.",
                "again",
            )
    drawn = {chosen: first.under(str(here.index(chosen))) for chosen in here}
    for chosen in (seed + 1, 0, 2**32 - 1):
        if same := [name for name in drawn[seed] if drawn[chosen][name] == drawn[seed][name]]:
            raise Wrong(
                f"set_seed({seed}) and set_seed({chosen}): {told_names(same)} drew the same.",
                "another_seed",
            )
    return f"{told_names(sorted(drawn[seed]))}: the seed decides what they draw, and nothing else."


def _open(generators: list[str]) -> str:
    return "open_" + cause_of(generators)


@decides("seed_gaps.switches")
def switches(trial: Trial) -> str:
    fast = OFF | {"cudnn.benchmark": True}
    lenient = fast | {"algorithms": True, "warn_only": True}
    seed, kept = trial.draw_seed(), {"deterministic": False}
    cases: list[tuple[dict[str, bool], dict[str, bool], dict[str, bool], str]] = [
        (OFF, {}, ON, "all off"),
        (fast, {}, ON, "benchmark on"),
        (lenient, {"deterministic": True}, ON, "benchmark on and algorithms at warn_only"),
        (fast, kept, fast, "benchmark on, the others off"),
        (ON, kept, ON, "all deterministic"),
        (lenient, kept, lenient, "benchmark on and algorithms at warn_only"),
    ]
    for before, options, expected, told in cases:
        came = trial.probe(
            "seed_gaps.switches", {"before": before, "options": options, "seed": seed}
        ).facts
        call = f"set_seed(…{''.join(f', {name}={value}' for name, value in options.items())})"
        for name, wanted in expected.items():
            if came["after"][name] != wanted:
                cause = "left_alone" if options == kept else name.removeprefix("cudnn.")
                raise Wrong(
                    f"Before: {told}. After {call}: {_switch(name)} is {came['after'][name]}; "
                    f"expected {wanted}.",
                    cause,
                )
        strict = expected["algorithms"] and not expected["warn_only"]
        if came["refuses"] != strict:
            raise Wrong(
                f"After {call} an operation without a deterministic form (put_) "
                f"{'ran' if strict else 'raised'}.",
                "algorithms" if strict else "left_alone",
            )
    return "Deterministic: the switches are on. deterministic=False: they stay as they were."


def _switch(name: str) -> str:
    told = {
        "algorithms": "torch.are_deterministic_algorithms_enabled()",
        "warn_only": "torch.is_deterministic_algorithms_warn_only_enabled()",
    }
    return told.get(name, f"torch.backends.{name}")


@decides("seed_gaps.environment")
def environment(trial: Trial) -> str:
    seed = trial.draw_seed()

    def after(cublas: str | None, *, started: bool = False, **options: bool) -> dict[str, Any]:
        args = {"cublas": cublas, "started": started, "options": options, "seed": seed}
        return trial.probe("seed_gaps.environment", args).facts

    def require(holds: bool, before: str, expected: str, came: dict[str, Any], cause: str) -> None:
        if not holds:
            raise Wrong(
                f"Before set_seed: {before}. After: CUBLAS_WORKSPACE_CONFIG is {came['cublas']!r}, "
                f"{len(came['warnings'])} warnings; expected {expected}.",
                cause,
            )

    plain = after(None)
    if plain["hash_seed"] is not None:
        raise Wrong(f"set_seed set PYTHONHASHSEED to {plain['hash_seed']!r}.", "hash_seed")
    if about := [text for text in plain["warnings"] if "hash" in text.lower()]:
        raise Wrong(f"set_seed warned: {about[0]!r}", "hash_warning")
    told = "CUBLAS_WORKSPACE_CONFIG unset, CUDA not started"
    require(plain["cublas"] in VALID, told, "':4096:8' or ':16:8'", plain, "cublas_unset")
    for value in VALID:
        for started in (False, True):
            came = after(value, started=started)
            require(came["cublas"] == value, f"it is {value!r}", repr(value), came, "cublas_kept")
    usual = set(plain["warnings"])  # a warning that always comes says nothing
    invalid = after(":8:8")
    told = "it is ':8:8', which is not deterministic"
    require(bool(set(invalid["warnings"]) - usual), told, "a warning", invalid, "cublas_silent")
    late = after(None, started=True)
    told = "CUBLAS_WORKSPACE_CONFIG unset, CUDA started already"
    require(late["cublas"] is None, told, "it unset, and a warning", late, "cublas_late")
    require(bool(set(late["warnings"]) - usual), told, "a warning", late, "cublas_late")
    for value in (None, ":8:8"):
        came = after(value, deterministic=False)
        told = f"it is {value!r}; the call has deterministic=False"
        require(came["cublas"] == value, told, repr(value), came, "left_alone")
    return "CUBLAS_WORKSPACE_CONFIG is set in time or warned about; hashing is left alone."


@decides("seed_gaps.divergence")
def divergence(trial: Trial) -> str:
    cases = _pairs(trial.rng)
    order = [list(cases)[int(i)] for i in trial.rng.permutation(len(cases))]
    tensors, kinds = {}, {}
    for label, name in enumerate(order):
        a, b, kind, *_ = cases[name]
        tensors |= {f"{label}/a": np.array(a, np.float64), f"{label}/b": np.array(b, np.float64)}
        kinds[str(label)] = kind
    came = trial.probe("seed_gaps.divergence", {"pairs": kinds}, tensors=tensors, seconds=SLOW)
    answers = {name: came.facts["answers"][str(n)] for n, name in enumerate(order)}
    for name, (a, b, _, expected, cause) in cases.items():
        answer = answers[name]
        if answer != expected:
            raise Wrong(
                f"first_divergence on {name} ({len(a)} and {len(b)} steps): expected {expected}; "
                f"it returned {answer}.",
                "one_based" if isinstance(expected, int) and answer == expected + 1 else cause,
            )
    return f"{len(cases)} pairs of runs, each told apart at its step, exactly."


Pair = tuple[list[float], list[float], str, int | None, str]


def _pairs(rng: np.random.Generator) -> dict[str, Pair]:
    """name -> (a, b, how to pass them, the answer, the likeliest cause of another answer)."""
    steps = int(rng.integers(12, 20))
    base = [float(x) for x in rng.uniform(0.1, 2.0, steps)]
    k = int(rng.integers(2, steps // 2 - 1))  # in the first half: halving would miss it
    ulp = math.nextafter(base[k], math.inf)
    nan, inf = math.nan, math.inf

    def put(value: float, at: int = k) -> list[float]:
        return [*base[:at], value, *base[at + 1 :]]

    shorter = base[:-2]
    other = [x + 0.5 for x in base]
    cases: dict[str, Pair] = {
        "two equal runs": (base, list(base), "lists", None, "none"),
        "equal runs, as tuples": (base, list(base), "tuples", None, "none"),
        "two empty runs": ([], [], "lists", None, "none"),
        "runs that differ from step 0 on": (other, base, "lists", 0, "step_zero"),
        f"runs that part at step {k}": (base, base[:k] + other[k:], "tuples", k, "position"),
        "runs that differ at one step and agree again": (base, put(9.0), "lists", k, "position"),
        "runs that differ at the last step": (
            base, put(9.0, steps - 1), "lists", steps - 1, "position",
        ),
        "runs one unit in the last place apart": (base, put(ulp), "lists", k, "tolerance"),
        "runs 1e-6 apart": (base, put(base[k] + 1e-6), "lists", k, "tolerance"),
        "1e-13 against 2e-13": (put(1e-13), put(2e-13), "lists", k, "tolerance"),
        "2**24 against 2**24 + 1": (put(2.0**24), put(2.0**24 + 1), "lists", k, "tolerance"),
        "whole numbers": ([1, 2, 3], [1, 2, 4], "ints", 2, "tolerance"),
        "2**53 against 2**53 + 1, as ints": ([0, 0, 0], [0, 0, 1], "big ints", 2, "tolerance"),
        "3 against 3.0": ([1, 2, 3], [1, 2, 3], "ints and floats", None, "same_number"),
        "the same numbers, two of them swapped": (
            base, [*base[:k], base[k + 1], base[k], *base[k + 2 :]], "lists", k, "position",
        ),
        "NaN in both": (put(nan), put(nan), "lists", None, "nan"),
        "NaN in both, and a later difference": (
            put(nan, 1), [base[0], nan, *base[2:k], 9.0, *base[k + 1 :]], "lists", k, "nan",
        ),
        "NaN against a number": (put(nan), base, "lists", k, "nan"),
        "a number against NaN": (base, put(nan), "tuples", k, "nan"),
        "NaN against 0.0": (put(nan), put(0.0), "lists", k, "nan"),
        "inf against NaN": (put(inf), put(nan), "lists", k, "nan"),
        "inf in both": (put(inf), put(inf), "lists", None, "nan"),
        "inf against -inf": (put(inf), put(-inf), "lists", k, "nan"),
        "a run that ends early": (shorter, base, "lists", len(shorter), "length"),
        "a run that ends early, the other way round": (
            base, shorter, "tuples", len(shorter), "length",
        ),
        "an empty run against one that is not": ([], base, "lists", 0, "length"),
        "runs that differ, of which one ends early": (put(9.0), shorter, "lists", k, "length"),
    }  # fmt: skip
    return cases


@decides("seed_gaps.same_run")
def same_run(trial: Trial) -> str:
    """The whole: two interpreters, a validation pass, another seed."""
    args = {
        "seed": int(trial.rng.integers(2, 2**31)),
        "data_seed": trial.draw_seed(),
        # A last batch of 2 to 7: short, but never the single row that batch norm refuses.
        "length": 8 * int(trial.rng.integers(5, 7)) + int(trial.rng.integers(2, 8)),
        "batch_size": 8,
        "epochs": 2,
        "validate": False,
    }
    run = trial.probe("seed_gaps_runs.train", args, seconds=SLOW)
    again = trial.probe("seed_gaps_runs.train", args, seconds=SLOW)
    _require_same(run, again, "Two processes", "unseeded")
    validated = trial.probe("seed_gaps_runs.train", args | {"validate": True}, seconds=SLOW)
    _require_same(run, validated, "One run with a validation pass, one without", "validation")
    other = trial.probe("seed_gaps_runs.train", args | {"seed": args["seed"] + 1}, seconds=SLOW)
    if other.tensors["losses"] == run.tensors["losses"]:
        raise Wrong("Trained with two seeds: the losses are the same.", "another_seed")
    elsewhere = fresh(trial, "seed_gaps_runs.train", args)
    _require_same(run, elsewhere, "Two interpreters, whose string hashes differ", "hash")
    steps = len(run.tensors["losses"].array())
    return f"Two interpreters, with and without validation: {steps} steps, equal to the bit."


def _require_same(a: Evidence, b: Evidence, what: str, cause: str) -> None:
    if not differing(a.tensors, b.tensors):
        return
    pairs = zip(a.tensors["losses"].array(), b.tensors["losses"].array(), strict=False)
    step = next((n for n, (x, y) in enumerate(pairs) if x != y), None)
    lost = "the order of the samples" if a.tensors["order"] != b.tensors["order"] else "the loss"
    where = "only in the weights at the end" if step is None else f"first at step {step}, in {lost}"
    raise Wrong(f"{what}, the same seed, the same program: they differ, {where}.", cause)
