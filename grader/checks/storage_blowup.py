"""Incident 06: which checkpoints are kept, in which order, and after a restart."""

from __future__ import annotations

from typing import Any

import numpy as np

from grader.checks.storage_blowup_runs import (
    SECONDS,
    SPEC,
    Directory,
    draw_data,
    number_in,
    numbers,
    require_all_saved,
    require_saved,
    save,
    shown,
)
from grader.evidence import differing, names
from grader.judge import Trial, Wrong, decides


def kept(saved: list[int], keep_last: int, keep_every: int = 0) -> list[int]:
    """What the contract keeps of these saves, made in this order."""
    there: set[int] = set()
    for number in saved:
        there.add(number)
        recent = sorted(there)[-keep_last:]
        periodic = {n for n in there if keep_every and n % keep_every == 0}
        there &= {*recent, *periodic, number}
    return sorted(there)


@decides("storage_blowup.retention")
def retention(trial: Trial) -> str:
    start, every = int(trial.rng.integers(11, 60)), int(trial.rng.integers(5, 7))
    # The every-th save is no multiple of it; the last save is one.
    first = every * int(trial.rng.integers(2, 9)) + 3
    periodic = [first + n for n in range(2 * every - 2)]
    plans: dict[str, tuple[dict[str, int], list[int]]] = {
        "one": ({"keep_last": 1}, [start + n for n in range(4)]),
        "some": ({"keep_last": 3}, [start + n for n in range(6)]),
        "periodic": ({"keep_last": 2, "keep_every": every}, periodic),
        "zero": ({"keep_last": 1, "keep_every": 40}, [0, 1, 2, 3]),
    }
    script = [save(n, **{"in": name}) for name, (_, saved) in plans.items() for n in saved]
    directory = Directory(trial)
    managers = {name: options | {"mode": None} for name, (options, _) in plans.items()}
    log = directory.process(*script, managers=managers)
    require_all_saved(log, "A save in which nothing went wrong")
    for name, (options, saved) in plans.items():
        want, got = kept(saved, **options), directory.full(name)
        if want == got:
            continue
        told = ", ".join(f"{key}={value}" for key, value in options.items())
        raise Wrong(
            f"CheckpointManager(directory, {told}), saves {shown(saved)}: kept are to be "
            f"{shown(want)}; on the disk are {shown(got)}.",
            _retained(name, want, got, saved, options),
        )
    return "One, some, periodic, zero: on the disk is what the policy keeps."


def _retained(
    name: str, want: list[int], got: list[int], saved: list[int], options: dict[str, int]
) -> str:
    recent = saved[-options["keep_last"] :]
    if not got:
        return "deletes_all"
    if got == sorted(set(saved)):
        return "keeps_all"
    if name == "periodic":
        if not set(want) - set(got):
            return "periodic_besides"
        return "periodic_lost" if got == recent else "counts_saves"
    if name == "zero":
        return "zero_periodic"
    return "one_too_many" if len(got) > len(want) else "retention"


@decides("storage_blowup.order")
def order(trial: Trial) -> str:
    tens = int(trial.rng.choice([10, 100]))
    crossings = {"tens": range(tens - 3, tens + 2), "thousands": range(9998, 10002)}
    script: list[dict[str, Any]] = []
    for name, passed in crossings.items():
        script += [save(n, **{"in": name}) for n in passed] + [{"do": "last", "in": name}]
    directory = Directory(trial, keep_last=2, mode=None)
    log = directory.process(*script, managers=dict.fromkeys(crossings, directory.manager))
    for name, passed in crossings.items():
        want, got = list(passed)[-2:], directory.full(name)
        count = len(passed)
        require_all_saved(log[:count], "A save in which nothing went wrong")
        last, log = number_in(log[count].get("value")), log[count + 1 :]
        if want != got or last != want[-1]:
            raise Wrong(
                f"keep_last=2, saves {shown(passed)}: kept are to be {shown(want)}, last() is to "
                f"be {want[-1]}; on the disk are {shown(got)}, and last() is {last}.",
                "text_order",
            )
    _copied_back(trial)
    _low_number(trial)
    _same_number(trial)
    return "The numbers decide, whatever the names and the times of the files say."


def _copied_back(trial: Trial) -> None:
    """The files were copied: their times say nothing any more."""
    first = int(trial.rng.integers(11, 60))
    directory = Directory(trial, keep_last=4, mode=None)
    directory.process(*(save(first + n) for n in range(3)))
    times = {directory.file(first + n): 2_000_000_000 - 100 * n for n in range(3)}
    directory.manager = {"keep_last": 2, "mode": None}
    log = directory.process({"do": "last"}, save(first + 3), {"do": "last"}, times=times)
    require_saved(log[1], "A save after the files had been copied")
    want, got = [first + 2, first + 3], directory.full()
    last = [number_in(log[n].get("value")) for n in (0, 2)]
    if got != want or last != want:
        raise Wrong(
            f"Files {shown(range(first, first + 3))}, the lowest number with the latest time; "
            f"keep_last=2, save {first + 3}. To be kept: {shown(want)}; on the disk: "
            f"{shown(got)}. last() before and after: {last[0]} and {last[1]}.",
            "time_order",
        )


def _low_number(trial: Trial) -> None:
    high, low = int(trial.rng.integers(30, 60)), int(trial.rng.integers(3, 9))
    saved = [high, high + 1, high + 2, low]
    directory = Directory(trial, keep_last=2, mode=None)
    log = directory.process(*map(save, saved), {"do": "last"})
    require_all_saved(log, f"keep_last=2, saves {shown(saved)}")
    want, got = kept(saved, 2), directory.full()
    if got != want:
        raise Wrong(
            f"keep_last=2, saves {shown(saved)}: kept are to be {shown(want)}, the file just "
            f"written among them; on the disk are {shown(got)}.",
            "just_written" if low not in got else "time_order",
        )
    if (last := number_in(log[-1].get("value"))) != high + 2:
        raise Wrong(
            f"Saves {shown(saved)}: last() is to be the highest number, {high + 2}; it is {last}.",
            "last_written",
        )


def _same_number(trial: Trial) -> None:
    first = int(trial.rng.integers(11, 60))
    directory = Directory(trial, keep_last=3, mode=None)
    script = [save(first), save(first + 1), save(first + 5, step=first + 1)]
    log = directory.process(*script)
    case = f"Number {first + 1} saved twice, with epoch={first + 1} and epoch={first + 5}"
    require_all_saved(log, case, "same_number")
    got = directory.full()
    if got != [first, first + 1]:
        raise Wrong(f"{case}: on the disk are the numbers {shown(got)}.", "same_number")
    name = directory.file(first + 1)
    if (epoch := directory.look().facts[name]["epoch"]) != first + 5:
        raise Wrong(f"{case}: the file holds epoch {epoch}, the first one.", "same_number")


@decides("storage_blowup.save")
def save_writes(trial: Trial) -> str:
    epochs = sorted(int(e) for e in trial.rng.choice(np.arange(4, 60), 3, replace=False))
    step = int(trial.rng.integers(100, 900))
    spec = SPEC | {"optimizer": "adamw", "dropout": 0.3}
    directory = Directory(trial, spec=spec, keep_last=5, mode=None)
    directory.data |= draw_data(trial, 3, "2")
    script = [save(epochs[0], step=0), save(epochs[1]), save(epochs[2], step=step)]
    options = {"eval_part": True, "extras": True, "train_on": True}
    evidence = directory.evidence(*script, **options)
    log = evidence.facts["log"]
    args = {"spec": spec, "seed": directory.seed, "steps": 3, "eval_part": True}
    truth = trial.trusted(
        "storage_blowup.never_saved", args, tensors=directory.data, seconds=SECONDS
    ).tensors
    if truth["modes"] != evidence.tensors.get("modes"):
        raise Wrong(
            "Three steps, each with a save: the train and eval modes of the model's parts are "
            "others.",
            "mode",
        )
    looked = directory.look()
    calls = [f"epoch={epochs[0]}, step=0", f"epoch={epochs[1]}", f"epoch={epochs[2]}, step={step}"]
    for moment, (call, number) in enumerate(zip(calls, (0, epochs[1], step), strict=True)):
        case = f"save(…, {call})"
        require_saved(log[moment], case)
        try:
            name = directory.file(number)
        except LookupError:
            raise Wrong(
                f"{case}: there is no step-{number}.pt; the directory has {names(directory.left)}.",
                "zero_number" if number == 0 else "number",
            ) from None
        if log[moment].get("value") != name.rpartition("/")[2]:
            raise Wrong(f"{case} is to return the new file's path; it returned "
                        f"{log[moment].get('value')!r}.", "returns")  # fmt: skip
        if log[moment]["kind"] != "Path":
            raise Wrong(f"{case} is to return a Path; it returned a {log[moment]['kind']}.",
                        "returns")  # fmt: skip
        facts = looked.facts[name]
        if not facts["sound"] or not facts["keys"]:
            raise Wrong(f"{case}: {name} is no checkpoint.", "content")
        if facts["epoch"] != epochs[moment]:
            raise Wrong(f"{case}: the file's epoch is {facts['epoch']}.", "epoch")
        if "ema_state_dict" not in facts["keys"]:
            raise Wrong(f"{case[:-1]}, ema=ema): the file lacks ema_state_dict.", "extra")
        for part in ("model", "optimizer"):
            want = truth.under(f"{moment}/{part}")
            if bad := differing(want, looked.tensors.under(f"{name}/{part}")):
                raise Wrong(
                    f"{case}: the file does not hold the {part} of that moment: {names(bad)}.",
                    "content",
                )
    _require_undisturbed(truth, evidence.tensors)
    return "Three saves, each the checkpoint of its moment; training did not notice."


def _require_undisturbed(truth: Any, got: Any) -> None:
    case = "Three steps, each with a save"
    if bad := differing(truth.under("draws"), got.under("draws")):
        raise Wrong(f"{case}: these generators stand elsewhere: {names(bad)}.", "rng")
    if bad := differing(truth.under("gradient"), got.under("gradient")):
        raise Wrong(f"{case}: these gradients are gone or others: {names(bad)}.", "gradients_lost")
    if bad := differing(truth.under("end"), got.under("end")):
        raise Wrong(f"{case}, and three more: these weights are others: {names(bad)}.", "disturbs")


@decides("storage_blowup.restart")
def restart(trial: Trial) -> str:
    every = int(trial.rng.integers(6, 12))
    first = every * int(trial.rng.integers(2, 6))
    policy = {"keep_last": 2, "keep_every": every, "mode": None}
    directory = Directory(trial, **policy)
    directory.process(*(save(first + n) for n in range(3)))
    before = directory.full()
    if before != (want := kept([first, first + 1, first + 2], 2, every)):
        raise Wrong(
            f"keep_last=2, keep_every={every}, saves {shown(range(first, first + 3))}: kept are "
            f"to be {shown(want)}; on the disk are {shown(before)}.",
            "retention",
        )
    _making_changes_nothing(directory)
    told = f"keep_last=2, keep_every={every}; on the disk {shown(before)}"
    log = directory.process({"do": "last"}, save(first + 3), save(first + 4), {"do": "last"})
    last = number_in(log[0].get("value"))
    if last != first + 2:
        raise Wrong(
            f"{told}. In a new process last() is to be {first + 2}; it is {last}.", "last_forgotten"
        )
    require_all_saved(log, f"{told}. In a new process")
    want, got = [first, first + 3, first + 4], directory.full()
    if got != want:
        cause = "periodic_forgotten" if first not in got else "files_forgotten"
        raise Wrong(
            f"{told}. In a new process, saves {first + 3}, {first + 4}: kept are to be "
            f"{shown(want)}; on the disk are {shown(got)}.",
            cause,
        )
    _two_runs(trial)
    return "A new process goes on with the files that it finds, and making a manager changes none."


def _making_changes_nothing(directory: Directory) -> None:
    there = directory.copy()
    there.damaged({there.file(min(there.full())): "flip"})
    there.files |= {"run/upload.tmp": b"somebody else's", "run/.hidden.tmp": b"another's"}
    before = dict(there.files)
    there.manager = {"keep_last": 1, "mode": None}
    there.process({"do": "make"})
    if there.files != before:
        changed = [n for n in before if there.files.get(n) != before[n]]
        raise Wrong(
            "CheckpointManager(directory, keep_last=1) on a directory with checkpoints, one of "
            f"them damaged, and others' temporary files. Made, not used; and {names(changed)} "
            "went or changed.",
            "making",
        )


def _two_runs(trial: Trial) -> None:
    """Two managers in one process, saves taking turns."""
    first = int(trial.rng.integers(11, 40))
    saved = {"left": [first, first + 1, first + 2], "right": [first + 50, first + 51]}
    script = [save(saved["left"][0], **{"in": "left"}), save(saved["left"][1], **{"in": "left"})]
    script += [save(n, **{"in": "right"}) for n in saved["right"]]
    script += [save(saved["left"][2], **{"in": "left"})]
    directory = Directory(trial)
    managers = {name: {"keep_last": 2, "mode": None} for name in saved}
    log = directory.process(*script, managers=managers)
    require_all_saved(log, "Two managers in one process")
    for name, mine in saved.items():
        if (got := numbers(directory.left, "step", name)) != kept(mine, 2):
            raise Wrong(
                f"Two managers in one process, keep_last=2 each. In one, saves {shown(mine)}: kept "
                f"are to be {shown(kept(mine, 2))}; on the disk are {shown(got)}.",
                "shared",
            )
