"""Incident 06: a mirror that is there, slow, down, or comes back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grader.checks.storage_blowup_runs import (
    Directory,
    numbers,
    require_all_saved,
    require_saved,
    save,
    shown,
)
from grader.evidence import names
from grader.judge import Trial, Wrong, decides

ERRORS = ("OSError", "TimeoutError", "RuntimeError", "KeyError", "ValueError")


def _require_held(
    files: Sequence[str], where: str, full: list[int], best: list[int], case: str, cause: str
) -> None:
    got = {kind: numbers(files, kind, where) for kind in ("step", "best")}
    for kind, want in (("step", full), ("best", best)):
        if absent := sorted(set(want) - set(got[kind])):
            raise Wrong(
                f"{case}: the mirror is to hold {kind} {shown(want)}; it has "
                f"{shown(got[kind])}, not {shown(absent)}.",
                cause,
            )


@decides("storage_blowup.mirror")
def mirror(trial: Trial) -> str:
    first = int(trial.rng.integers(11, 60))
    directory = Directory(trial, keep_last=1, mode="min", mirror="{here}/backup/run")
    script = [
        save(first, 0.5),
        save(first + 1, 0.4),
        save(first + 2),
        save(first + 9, step=first + 2),
    ]
    start = directory.copy()
    log = directory.process(*script)
    require_all_saved(log, "A save with a mirror that works")
    case = f'mirror="…/backup/run", keep_last=1, saves {shown(range(first, first + 3))}'
    backup, every = "backup/run", [first, first + 1, first + 2]
    elsewhere = [n for n in directory.left if n.startswith("backup/") and n.count("/") != 2]
    if elsewhere:
        raise Wrong(f"{case}: on the mirror there is {names(elsewhere)}.", "mirror_names")
    if not numbers(directory.left, "step", backup):
        start.process(*script, {"do": "wait", "seconds": 1.0})
        late = bool(numbers(start.left, "step", backup))
        raise Wrong(
            f"{case}: the mirror holds nothing when the process ends"
            + ("; a second later it would." if late else "."),
            "mirror_background" if late else "mirror_empty",
        )
    _require_held(directory.left, backup, every, [], case, "mirror_pruned")
    _require_held(directory.left, backup, every, [first + 1], case, "mirror_best")
    for number, kind in ((first + 2, "step"), (first + 1, "best")):
        name = directory.file(number, kind)
        copy = name.replace("run/", "backup/run/", 1)
        if directory.files.get(copy) != directory.files[name]:
            raise Wrong(
                f"{case}, the last number twice: {copy} is not what {name} is.", "mirror_stale"
            )
    _before_safe(trial, first)
    _in_memory(trial, first)
    _slow(trial, first)
    return "Each new file is on the mirror when save returns; nothing is ever deleted there."


def _before_safe(trial: Trial, first: int) -> None:
    there = Directory(trial, keep_last=1, mode=None, mirror="{here}/backup/run")
    log = there.process(save(first), save(first + 1, fault=["flip", 1]))
    require_saved(log[0], "A save with a mirror that works")
    if log[1]["raised"] and first + 1 in numbers(there.left, "step", "backup/run"):
        raise Wrong(
            "A bit of the new file flips on its way to the disk: save raises, and the mirror has "
            "the damaged file.",
            "mirror_before_safe",
        )


def _in_memory(trial: Trial, first: int) -> None:
    url = f"memory://run-{first}"
    there = Directory(trial, keep_last=1, mode="min", mirror=url)
    evidence = there.evidence(save(first, 0.5), save(first + 1), probe="in_memory", url=url)
    require_all_saved(evidence.facts["log"], f"mirror={url!r}")
    _require_held(there.left, "held", [first, first + 1], [first], f"mirror={url!r}", "mirror_url")


def _slow(trial: Trial, first: int) -> None:
    there = Directory(trial, keep_last=1, mode=None, mirror="unsteady://run")
    there.killed(
        {"do": "slow", "seconds": 0.3}, save(first), {"do": "end"}, probe="mirrored"
    )  # fmt: skip
    _require_held(
        there.left,
        "store/run",
        [first],
        [],
        "A slow mirror; the process ends just after save has returned",
        "mirror_background",
    )


@decides("storage_blowup.mirror_fails")
def mirror_fails(trial: Trial) -> str:
    first = int(trial.rng.integers(11, 60))
    for error in ERRORS:
        text = f"quota {int(trial.rng.integers(1000, 9999))} exceeded"
        _down(trial, first, error, text)
    _unknown(trial, first)
    _pruned_meanwhile(trial, first)
    return (
        f"A mirror that raises {names(ERRORS, 9)} stops nothing, is named, and is caught up with."
    )


def _down(trial: Trial, first: int, error: str, text: str) -> None:
    """Down when the manager is made and for two saves, then up again."""
    there = Directory(trial, keep_last=3, mode="min", mirror="unsteady://run")
    down = {"do": "down", "error": error, "text": text}
    script = [down, {"do": "make"}, save(first, 0.5), save(first + 1), {"do": "up"}]
    report = trial.attempt(
        "storage_blowup_mirror.mirrored", there.args(script[:2]), tensors=there.data
    )[0]
    if report.outcome == "raised" and str(report.details.get("type")) == error:
        raise Wrong(
            f"The mirror is down ({error}) when CheckpointManager(directory, mirror=…) is made: "
            "it raised. Making a manager does not connect.",
            "mirror_connects",
        )
    log = there.process(*script, save(first + 2), probe="mirrored")[1:]
    case = f"The mirror raises {error}: {text}"
    for number, entry in zip((first, first + 1), log, strict=False):
        require_saved(entry, f"{case}; save {number}", "mirror_raises")
        said = entry["warnings"]
        if not said:
            raise Wrong(f"{case}; save {number} said nothing.", "mirror_silent")
        whole = " ".join(said)
        if not any(f"{number}.pt" in line for line in said) or text not in whole:
            what = "the cause" if f"{number}.pt" in whole else "the file"
            raise Wrong(
                f"{case}; save {number} warned {whole[:160]!r}, which does not name {what}.",
                "mirror_vague",
            )
    require_saved(log[2], f"{case}, and then it works again; save {first + 2}", "mirror_raises")
    case = f"The mirror failed for {first} and {first + 1} and works for {first + 2}"
    full = [first, first + 1, first + 2]
    _require_held(there.left, "store/run", full, [first], case, "mirror_not_retried")


def _unknown(trial: Trial, first: int) -> None:
    there = Directory(trial, keep_last=3, mode=None, mirror="nowhere://run")
    log = there.process(save(first))
    case = 'mirror="nowhere://run", a protocol that fsspec does not know'
    require_saved(log[0], case, "mirror_raises")
    if not log[0]["warnings"]:
        raise Wrong(f"{case}: save said nothing.", "mirror_silent")


def _pruned_meanwhile(trial: Trial, first: int) -> None:
    """With keep_last=1 a file that never reached the mirror is gone before the next try."""
    there = Directory(trial, keep_last=1, mode=None, mirror="unsteady://run")
    down: dict[str, Any] = {"do": "down", "error": "OSError", "text": "no route"}
    then = [{"do": "up"}, save(first + 2), save(first + 3)]
    log = there.process(down, save(first), save(first + 1), *then, probe="mirrored")
    case = "keep_last=1, the mirror down for two saves"
    for entry in log:
        require_saved(entry, case, "mirror_gone")
    full = [first + 2, first + 3]
    _require_held(there.left, "store/run", full, [], f"{case}, then up", "mirror_gone")
    # Once is information; at every save it is noise.
    said = [text for text in log[-1]["warnings"] if f"{first}.pt" in text]
    if said:
        raise Wrong(
            f"{case}, then up for two. {first} is long gone from the disk, and the last save still "
            f"warns of it: {said[0][:160]!r}",
            "mirror_gone",
        )
