"""Incident 05, task 3: names are changed and compared, and every difference is told at once."""

from __future__ import annotations

import re
from itertools import islice
from typing import Any

from grader.checks.version_breakage_cases import Case, require_loaded, require_refused, run
from grader.checks.version_breakage_names import draw_names, fresh_words, shown
from grader.evidence import names
from grader.judge import Trial, Wrong, decides


@decides("version_breakage.renames")
def renames(trial: Trial) -> str:
    a, b, c, d = islice(fresh_words(trial), 4)
    traps = {
        f"module.{a}.weight": f"{a}.weight",
        f"module.sub_module.{a}.gain": f"sub_module.{a}.gain",
        f"module.module.{b}.bias": f"module.{b}.bias",
        f"module.dule.{b}.bias": f"dule.{b}.bias",
        f"module.embed.{c}.scale": f"embed.{c}.scale",
        f"modulex.{d}.weight": f"modulex.{d}.weight",
        f"{c}.module.{d}.weight": f"{c}.module.{d}.weight",
    }
    cases = {
        "once": ([("module.", "")], traps, "prefix_only"),
        "first": (
            [(f"{a}.", f"{b}."), (f"{a}.{c}.", f"{d}.")],
            {f"{a}.{c}.weight": f"{b}.{c}.weight", f"{a}.bias": f"{b}.bias"},
            "first_pair",
        ),
        "of two alike": (
            [(f"{a}.", f"{b}."), (f"{a}.", f"{c}.")],
            {f"{a}.weight": f"{b}.weight"},
            "first_pair",
        ),
        "last": (
            [(f"{a}.{c}.", f"{d}."), (f"{a}.", f"{b}.")],
            {f"{a}.{c}.weight": f"{d}.weight", f"{a}.bias": f"{b}.bias"},
            "first_pair",
        ),
        "chain": (
            [(f"{a}.", f"{b}."), (f"{b}.", f"{c}.")],
            {f"{a}.weight": f"{b}.weight", f"{b}.bias": f"{c}.bias"},
            "renamed_twice",
        ),
        "swap": (
            [(f"{a}.", f"{b}."), (f"{b}.", f"{a}.")],
            {f"{a}.weight": f"{b}.weight", f"{b}.weight": f"{a}.weight"},
            "renamed_twice",
        ),
        "everywhere": (
            [("", f"{d}."), (f"{a}.", f"{b}.")],
            {f"{a}.weight": f"{d}.{a}.weight", f"{b}.bias": f"{d}.{b}.bias"},
            "any_prefix",
        ),
        "inside a part": (
            [(a, f"{b}_{c}")],
            {f"{a}x.weight": f"{b}_{c}x.weight", f"{a}.bias": f"{b}_{c}.bias"},
            "any_prefix",
        ),
        "idle": (
            [(f"{c}.", f"{d}."), (f"{d}.", f"{c}.")],
            {f"{a}.weight": f"{a}.weight", f"{b}.bias": f"{b}.bias"},
            "idle",
        ),
    }
    made = {
        label: Case(
            own=list(becomes.values()),
            file=list(becomes),
            cause=cause,
            options={"rename": [list(pair) for pair in pairs]},
            becomes=becomes,
        )
        for label, (pairs, becomes, cause) in cases.items()
    }
    clash = {f"module.{a}.weight": f"{a}.weight", f"{a}.weight": f"{a}.weight"}
    made["clash"] = Case(
        own=[f"{a}.weight"],
        file=list(clash),
        cause="collision",
        options={"rename": [["module.", ""]]},
        becomes=clash,
    )
    # Of two that become one, one would be lost, whoever wants it.
    ignored = {f"module.{b}.bias": f"{b}.bias", f"{b}.bias": f"{b}.bias"}
    made["clash, ignored"] = Case(
        own=[f"{a}.weight"],
        file=[f"{a}.weight", *ignored],
        cause="collision",
        options={"rename": [["module.", ""]], "allow_unexpected": ["*"]},
        becomes=ignored,
    )
    came = run(trial, made)
    for label in cases:
        require_loaded(made[label], came, label)
    require_refused(made["clash"], came, "clash")
    require_refused(made["clash, ignored"], came, "clash, ignored")
    return f"{len(cases)} ways of renaming, each name once and at its start; two into one refused."


def _shapes_in(text: str) -> set[tuple[int, ...]]:
    """Every (2, 3) or [2, 3] in a text."""
    found = re.findall(r"[(\[]([\d,\s]*)[)\]]", text)
    return {tuple(int(n) for n in re.findall(r"\d+", numbers)) for numbers in found}


@decides("version_breakage.differences")
def differences(trial: Trial) -> str:
    drawn = draw_names(trial, 9)
    common, lost, extra, odd = drawn[:3], drawn[3:5], drawn[5:7], drawn[7:]
    row, column = int(trial.rng.integers(2, 5)), int(trial.rng.integers(5, 9))

    def shapes(*pairs: tuple[tuple[int, ...], tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        sides = {}
        for name, (file, own) in zip(odd, pairs, strict=False):
            sides |= {f"file:{name}": file, f"own:{name}": own}
        return sides

    both = [*common, *odd]
    pairs = {
        "turned": ((column, row), (row, column)),
        "spread": ((1,), (row,)),
        "scalar": ((1,), ()),
        "one": ((), (1,)),
    }
    cases = {}
    for label, pair in pairs.items():
        cases[label] = Case(
            [*common, odd[0]],
            [*common, odd[0]],
            "shape_accepted",
            # What a pattern allows is a name that is absent, never a shape.
            {"allow_missing": ["*"], "allow_unexpected": ["*"]} if label == "turned" else {},
            shapes=shapes(pair),
        )
    odd_buffer = shapes(((column,), (row,)))
    cases["buffer"] = Case(
        [*common, odd[0]],
        [*common, odd[0]],
        "shape_accepted",
        shapes=odd_buffer,
        buffers=[odd[0]],
    )
    # A batch norm fills in its own counter when a state_dict without metadata lacks it.
    norm = next(fresh_words(trial))
    whole = [f"{norm}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]
    counter = f"{norm}.num_batches_tracked"
    cases["counter"] = Case(
        [*common, *whole, counter],
        [*common, *whole],
        "silent",
        shapes={f"{side}:{name}": (3,) for name in whole for side in ("own", "file")},
        buffers=[*whole[2:], counter],
        norm=norm,
    )
    cases |= {
        "all": Case(
            [*both, *lost], [*both, *extra], "silent", shapes=shapes(((9,), (8,)), ((7, 6), (6,)))
        ),
        "missing": Case([*common, *lost], common, "silent"),
        "unexpected": Case(common, [*common, *extra], "silent"),
    }
    came = run(trial, cases)
    for label, case in cases.items():
        fact = came.facts[label]
        told = [n for n in [*lost, *extra, counter] if (n in case.own) != (n in case.file)]
        wrong = [n for n in odd if case.shapes.get(f"own:{n}") != case.shapes.get(f"file:{n}")]
        if wrong and fact["raised"] and "CheckpointError" not in fact["bases"]:
            raise Wrong(
                f"{case.said()}, where {wrong[0]} has another shape: expected a CheckpointError; "
                f"came {shown(fact)}",
                "shape_left_to_torch",
            )
        text = require_refused(case, came, label)["text"]
        if unsaid := [name for name in [*told, *wrong] if name not in text]:
            missing, unexpected, shape = (
                [n for n in group if n in unsaid] for group in ([*lost, counter], extra, odd)
            )
            listed = " ".join(
                f"{what}: {names(group)}."
                for what, group in (
                    ("missing", missing),
                    ("unexpected", unexpected),
                    ("of another shape", shape),
                )
                if group
            )
            raise Wrong(
                f"{case.said()}, with {len(told)} names on one side only and {len(wrong)} other "
                f"shapes: the error does not tell all of them. Untold, {listed}",
                "one_at_a_time",
            )
        for name in wrong:
            pair = {case.shapes[f"file:{name}"], case.shapes[f"own:{name}"]}
            if not pair <= _shapes_in(text):
                file, own = case.shapes[f"file:{name}"], case.shapes[f"own:{name}"]
                raise Wrong(
                    f"{name} is {file} in the file and {own} in the model: the error does not "
                    f"show both shapes: {text!r:.300}",
                    "shapes_untold",
                )
    return f"{len(cases)} misfits: every name and shape told in one error, and nothing loaded."


@decides("version_breakage.patterns")
def patterns(trial: Trial) -> str:
    a, b, head, old = islice(fresh_words(trial), 4)
    common = [f"{a}.weight", f"{b}.bias"]
    heads = [f"{head}.weight", f"{head}.veight"]
    counter = f"{a}.num_batches_tracked"
    prefixed = {f"module.{name}": name for name in [*common, f"{old}.weight"]}
    strip = {"rename": [["module.", ""]]}

    def lacks(absent: list[str], cause: str, *given: str) -> Case:
        buffers = [name for name in absent if name == counter]
        return Case(
            [*common, *absent], common, cause, {"allow_missing": list(given)}, buffers=buffers
        )

    def has(cause: str, **options: Any) -> Case:
        return Case(common, list(prefixed), cause, strip | options, becomes=prefixed)

    fine = {
        "star": lacks(heads, "pattern_kind", f"{head}.*"),
        "suffix": lacks([counter], "pattern_kind", "*.num_batches_tracked"),
        "class": lacks(heads, "pattern_kind", f"{head}.[vw]eight"),
        "idle": lacks([], "idle", f"{head}.*", "*.nothing"),
        "idle too": Case(common, common, "idle", {"allow_unexpected": [f"{old}.*"]}),
        "several": lacks([*heads, counter], "pattern_kind", f"{head}.?eight", "*.num_*"),
        "renamed": has("before_renaming", allow_unexpected=[f"{old}.*"]),
    }
    refused = {  # what goes wrong everywhere comes first: it would look like the others
        "crossed": Case([*common, *heads], common, "crossed", {"allow_unexpected": ["*"]}),
        "crossed too": Case(common, [*common, *heads], "crossed", {"allow_missing": ["*"]}),
        "one of two": lacks([*heads, counter], "allows_all", f"{head}.*"),
        "part": lacks(heads, "pattern_kind", f"{head[1:]}.*"),
        "capital": lacks(heads, "pattern_kind", f"{head.upper()}.*"),
        "no star": lacks(heads, "pattern_kind", head, f"{head}."),
        "old name": has("before_renaming", allow_unexpected=["module.*"]),
    }
    came = run(trial, fine | refused)
    for label, case in refused.items():
        require_refused(case, came, label)
    for label, case in fine.items():
        require_loaded(case, came, label)
    return f"{len(fine)} kinds of difference allowed, {len(refused)} not: as fnmatchcase has it."
