"""Incident 05, task 3: what is loaded is loaded in place, and the report says what was."""

from __future__ import annotations

from typing import Any

import numpy as np

from grader.checks.version_breakage_cases import Case, require_loaded, run
from grader.checks.version_breakage_names import draw_names, shown
from grader.evidence import Evidence, Raw, names
from grader.judge import Trial, Wrong, decides


@decides("version_breakage.in_place")
def in_place(trial: Trial) -> str:
    drawn = draw_names(trial, 7)
    own, tied, norm = drawn[:4], drawn[4:6], drawn[6].partition(".")[0]
    buffers = [f"{norm}.running_mean", f"{norm}.num_batches_tracked"]
    listed = [*own, *tied, *buffers]
    becomes = {f"module.{name}": name for name in listed}
    cases = {
        "as it is": Case(listed, listed, "", buffers=buffers, ties=[tied], step=True),
        "renamed": Case(
            listed,
            list(becomes),
            "",
            {"rename": [["module.", ""]]},
            becomes=becomes,
            buffers=buffers,
            ties=[tied],
            step=True,
        ),
    }
    came = run(trial, cases)
    for label, case in cases.items():
        _require_in_place(case, came, label, tied)
    return "Parameters, buffers and ties: filled in place, and the state_dict left as it was."


def _require_in_place(case: Case, came: Evidence, label: str, tied: list[str]) -> None:
    fact, call = came.facts[label], case.said()
    if fact["raised"]:
        raise Wrong(f"{call}, where all names and shapes agree, raised {shown(fact)}", "not_loaded")
    after, stepped = (came.tensors.under(f"{label}/{when}") for when in ("after", "stepped"))
    given = came.tensors.under(f"{label}/file")
    want = case.after()
    bad = [name for name in want if after.get(name) != want[name]]
    if bad:
        cause = "buffers" if set(bad) <= set(case.buffers) else "not_loaded"
        raise Wrong(f"{call}: afterwards {names(bad)} do not have the file's values.", cause)
    moved = {}
    for name in case.own:
        old = want[name].array()
        first = tied[0] if name == tied[1] else name
        new = old + np.asarray(1, old.dtype) if name in case.buffers else old
        if name not in case.buffers:
            new = old - case.drawn[f"grad:{first}"]
        moved[name] = Raw(want[name].dtype, want[name].shape, np.asarray(new, old.dtype).tobytes())
    bad = [name for name in moved if stepped.get(name) != moved[name]]
    if bad and set(bad) <= set(tied):
        raise Wrong(
            f"{call}: {names(tied)} are one parameter. After a training step they differ, or did "
            "not move.",
            "unties",
        )
    if bad:
        raise Wrong(
            f"{call}, then a step of an optimizer built before: {names(bad)} did not move with "
            "it. The optimizer holds other tensors than the model.",
            "replaced",
        )
    if sorted(fact["file"]) != sorted(case.file):
        raise Wrong(
            f"{call} changed the caller's state_dict: its names are now "
            f"{names(fact['file'], 6) or 'gone'}.",
            "changes_state_dict",
        )
    bad = [name for name in case.file if given.get(name) != case.raw(f"file:{name}")]
    if bad:
        raise Wrong(
            f"{call}, then a training step: the caller's state_dict followed it at {names(bad)}.",
            "shares_memory",
        )


@decides("version_breakage.report")
def report(trial: Trial) -> str:
    *common, head, old = draw_names(trial, 5)
    becomes = {f"module.{name}": name for name in [*common[:2], old]} | {common[2]: common[2]}
    allowed = {"allow_missing": [head], "allow_unexpected": [old]}
    cases = {
        "all": Case(
            [*common, head], list(becomes), "", {"rename": [["module.", ""]]} | allowed, becomes
        ),
        "plain": Case(common, common, ""),
    }
    for option in ("allow_missing", "allow_unexpected"):
        for text in (f"{common[0]}.*", "*"):
            cases[f"{option} {text}"] = Case(common, common, "", {option: text})
    came = run(trial, cases)
    for label in ("all", "plain"):
        _require_report(cases[label], came, label)
    for label, case in cases.items():
        fact = came.facts[label]
        if label not in ("all", "plain") and "TypeError" not in fact.get("bases", []):
            raise Wrong(
                f"{case.said()}: a bare string is to be a TypeError; came {shown(fact)}",
                "bare_string",
            )
    return "The report names what was loaded, kept, ignored and renamed; a bare string is refused."


def _require_report(case: Case, came: Evidence, label: str) -> None:
    require_loaded(case, came, label)
    new = [case.new(name) for name in case.file]
    want = {
        "loaded_keys": [name for name in new if name in case.own],
        "missing_keys": [name for name in case.own if name not in new],
        "unexpected_keys": [name for name in new if name not in case.own],
    }
    got = came.facts[label]["report"]
    for key, expected in want.items():
        found = got[key]
        if not isinstance(found, list) or sorted(found) != sorted(expected):
            raise Wrong(
                f"{case.said()}: the report's {key} is {found}; expected {sorted(expected)}.",
                _report_cause(key, found, case),
            )
    renamed = {old: case.new(old) for old in case.file if case.new(old) != old}
    if got["renamed"] != renamed:
        turned = {new: old for old, new in renamed.items()}
        raise Wrong(
            f"{case.said()}: the report's renamed is {got['renamed']}; expected {renamed}.",
            "renamed_turned" if renamed and got["renamed"] == turned else "renamed_all",
        )


def _report_cause(key: str, found: Any, case: Case) -> str:
    if not isinstance(found, list):
        return "report_type"
    if any(name.startswith("module.") for name in found):
        return "old_names"
    return "report_lacks_allowed" if not found else "report_loaded"
