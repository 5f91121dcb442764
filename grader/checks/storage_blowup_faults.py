"""Incident 06: full disks, flipped bits and kills, and what they leave."""

from __future__ import annotations

from typing import Any

from grader.checks.storage_blowup_runs import (
    NAME,
    Directory,
    require_all_saved,
    save,
    shown,
)
from grader.evidence import names
from grader.judge import Trial, Wrong, decides

TOLD = {
    "full": "the disk is full when file {at} is written ({error})",
    "flip": "one bit of file {at} flips on its way to the disk",
    "limit": "the disk takes {at} bytes of a file and no more",
}


class Faults:
    """One save that goes wrong, in a directory where all was well."""

    def __init__(self, start: Directory) -> None:
        self.start = start

    def __call__(
        self, event: dict[str, Any], fault: list[Any], *, best: bool = False
    ) -> Directory | None:
        """Save with this fault, require what the contract promises.

        Returns the directory afterwards; None if the fault met nobody: the save wrote all.
        """
        asks = [{"do": "last"}] + ([{"do": "best"}] if best else [])
        there = self.start.copy()
        number = event.get("step", event["epoch"])
        kind, at, error = (*fault, 1, "OSError")[:3] if len(fault) < 3 else fault
        told = TOLD[kind].format(at=at, error=error)
        case = f"On the disk {self.shown(self.start)}; save {number}, and {told}"
        log = there.process(*asks, event | {"fault": fault}, *asks)
        failed = log[len(asks)]
        if not failed["raised"]:
            self._whole(there, number, best and "metric" in event, case, kind)
            return None
        if not {"OSError", "RuntimeError"} & set(failed["bases"]):
            raise Wrong(
                f"{case}: expected OSError or RuntimeError; came {failed['raised']}: "
                f"{failed['text']}",
                "wrong_exception",
            )
        self._as_before(there, case, number)
        for ask, before, after in zip(asks, log, log[len(asks) + 1 :], strict=False):
            if before.get("value") != after.get("value") or after["raised"]:
                came = after["raised"] or after.get("value")
                raise Wrong(
                    f"{case}. save raised, as it should; {ask['do']}() was {before.get('value')} "
                    f"before, and is {came} now.",
                    "answers_moved",
                )
        return there

    @staticmethod
    def shown(directory: Directory) -> str:
        best = directory.best()
        return f"step {shown(directory.full())}" + (f" and best {shown(best)}" if best else "")

    def _whole(self, there: Directory, number: int, best: bool, case: str, kind: str) -> None:
        """No exception: then all that was to be written has to be there, and sound."""
        facts = there.look().facts
        bad = [name for name, fact in facts.items() if not fact["sound"]]
        absent = number not in there.full() or (best and number not in there.best())
        if bad or absent:
            what = f"{names(bad)} is damaged" if bad else "the new file is not there"
            cause = "unverified" if kind == "flip" and bad else "swallowed"
            raise Wrong(f"{case}: save returned, and {what}.", cause)

    def _as_before(self, there: Directory, case: str, number: int) -> None:
        before, after = self.start.files, there.files
        lost = [name for name in before if name not in after]
        changed = [name for name in before if name in after and after[name] != before[name]]
        new = [name for name in there.left if name not in before]
        if lost:
            own = [name for name in lost if int(NAME.fullmatch(name)[2]) == number]
            raise Wrong(f"{case}: save raised, and {names(lost)} is gone.",
                        "in_place" if own else "deleted_early")  # fmt: skip
        if changed:
            raise Wrong(f"{case}: save raised, and {names(changed)} is another.", "in_place")
        if new:
            final = [name for name in new if NAME.fullmatch(name)]
            cause = "half_saved" if final else "litter"
            if final and not all(there.look().facts[name]["sound"] for name in final):
                cause = "in_place"
            raise Wrong(f"{case}: save raised, and {names(new)} stays behind.", cause)


@decides("storage_blowup.full_disk")
def full_disk(trial: Trial) -> str:
    first = int(trial.rng.integers(11, 60))
    start = Directory(trial, keep_last=1, mode=None)
    require_all_saved(start.process(save(first)), "A first save")
    size = len(start.files[start.file(first)])
    limit = int(trial.rng.integers(size // 4, size // 2))
    attempt, met = Faults(start), 0
    for event in (save(first + 1), save(first)):
        for fault in (["full", 1, "OSError"], ["full", 1, "RuntimeError"], ["flip", 1]):
            met += attempt(event, fault) is not None
    met += attempt(save(first + 1), ["limit", limit]) is not None
    again = start.copy()
    log = again.process(save(first + 1, fault=["full", 1, "OSError"]), save(first + 1))
    if log[1]["raised"] or again.full() != [first + 1]:
        came = log[1]["raised"] or f"on the disk are {shown(again.full())}"
        raise Wrong(
            f"A save met a full disk; there is room again, the same manager saves {first + 1} "
            f"once more: {came}.",
            "next_save",
        )
    return f"{met} saves failed as they should: nothing lost, nothing left behind."


@decides("storage_blowup.best_safe")
def best_safe(trial: Trial) -> str:
    first, (better, metric) = int(trial.rng.integers(11, 60)), sorted(trial.rng.uniform(0.2, 2, 2))
    start = Directory(trial, keep_last=2, mode="min")
    require_all_saved(start.process(save(first, metric), save(first + 1)), "A first save")
    if start.best() != [first]:
        raise Wrong(
            f"First save, metric={metric:.3f}: one best file, of number {first}, is to be there; "
            f"there are {shown(start.best())}.",
            "best_missing",
        )
    attempt, event = Faults(start), save(first + 2, better)
    met = 0
    for at in (1, 2, 3):
        for fault in (["full", at, str(trial.rng.choice(["OSError", "RuntimeError"]))],
                      ["flip", at]):  # fmt: skip
            met += attempt(event, fault, best=True) is not None
    again = start.copy()
    log = again.process(event | {"fault": ["full", 2, "OSError"]}, event)
    case = f"save {first + 2}, metric={better:.3f}, met a full disk at its second file; once more"
    if log[1]["raised"]:
        raise Wrong(f"{case}, the same manager: save raised {log[1]['raised']}.", "next_save")
    if again.best() != [first + 2]:
        raise Wrong(
            f"{case}, with the same metric, which beats {metric:.3f}: the best file is to be "
            f"{first + 2}; there are {shown(again.best())}.",
            "remembered_early",
        )
    return (
        f"{met} saves failed as they should: the old best weights stayed until new ones were safe."
    )


@decides("storage_blowup.killed")
def killed(trial: Trial) -> str:
    first = int(trial.rng.integers(11, 60))
    start = Directory(trial, keep_last=1, mode=None)
    require_all_saved(start.process(save(first)), "A first save")
    dead: dict[str, Directory] = {}
    for number in (first + 1, first):
        for moment in range(1, 25):
            there = start.copy()
            if not there.killed(save(number, fault=["kill", moment])):
                break
            dead[f"On the disk step {first}; save {number}, killed at its moment {moment}"] = there
    _require_loadable(trial, dead, first)
    _replaced(start, first)
    # Whatever a kill left behind, a new process goes on.
    chosen = str(trial.rng.choice(list(dead)))
    there = dead[chosen]
    require_all_saved(there.process(save(first + 2)), f"{chosen}. A new process", "next_save")
    if there.full() != [first + 2]:
        raise Wrong(
            f"{chosen}. A new process saved {first + 2}, keep_last=1: on the disk are "
            f"{shown(there.full())}.",
            "next_save",
        )
    return f"Killed at {len(dead)} moments of two saves: each time a whole checkpoint was there."


def _replaced(start: Directory, number: int) -> None:
    """A copy into place is half a checkpoint for a while, however it came to its first place."""
    there, name = start.copy(), start.file(number)
    log = there.process(save(number + 7, step=number, fault=["elsewhere"]))
    case = f"The system's temporary files are on another disk; {number} is saved once more"
    require_all_saved(log, case, "same_number")
    if there.files.get(f"{name.rpartition('/')[2]}.kept") != start.files[name]:
        raise Wrong(
            f"{case}. A hard link to the old {name} now shows another content: the new file was "
            "written into the old one, not put in its place.",
            "in_place",
        )


def _require_loadable(trial: Trial, dead: dict[str, Directory], first: int) -> None:
    """After each kill: every file under a checkpoint's name is whole, and there is one."""
    files = {
        f"{index}/{name}": data
        for index, there in enumerate(dead.values())
        for name, data in there.files.items()
    }
    facts = trial.trusted("storage_blowup.look", {"tensors": False}, files=files).facts
    for index, (case, there) in enumerate(dead.items()):
        mine = [n for n in there.files if NAME.fullmatch(n) and n.count("/") == 1]
        if broken := [name for name in mine if not facts[f"{index}/{name}"]["sound"]]:
            raise Wrong(f"{case}: {names(broken)} is not whole.", "in_place")
        if not there.full() or max(there.full()) < first:
            raise Wrong(f"{case}: no checkpoint is left.", "deleted_early")
