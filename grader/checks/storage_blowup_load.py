"""Incident 06: load_latest, and the docstrings' other promises."""

from __future__ import annotations

from typing import Any

from grader.checks.storage_blowup_runs import (
    SECONDS,
    SPEC,
    Directory,
    number_in,
    require_all_saved,
    save,
    shown,
)
from grader.evidence import Evidence, differing, names
from grader.judge import Trial, Wrong, decides

FOREIGN = (
    "model.pt",
    "step-abc.pt",
    "step-77-old.pt",
    "step-1_0.pt",
    "step_55.pt",
    "step-99.pt.bak",
    "best-98.pt.bak",
    "my-step-97.pt",
    "upload.tmp",
)


class Loads:
    """load_latest in fresh processes, into other objects."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.args = {"spec": SPEC, "seed": trial.draw_seed()}
        self.fresh = trial.trusted("storage_blowup.fresh", self.args).tensors.under("model")

    def __call__(self, directory: Directory, **options: Any) -> Evidence:
        evidence = self.trial.probe(
            "storage_blowup.load", self.args | options, files=directory.files, seconds=SECONDS
        )
        gone = [n for n, data in directory.files.items() if evidence.files.get(n) != data]
        if gone:
            raise Wrong(f"After load_latest: {names(gone)} is gone or another file.", "changed")
        return evidence

    def untouched(self, evidence: Evidence) -> bool:
        return not differing(self.fresh, evidence.tensors.under("model"))


@decides("storage_blowup.load_latest")
def load_latest(trial: Trial) -> str:
    load, first = Loads(trial), int(trial.rng.integers(11, 40))
    directory = Directory(trial, keep_last=5, mode=None)
    _no_checkpoint(load, directory)
    saved = [first, first + 1, first + 2]
    require_all_saved(directory.process(*map(save, saved), extras=True), "A save")
    _newest(load, directory, saved)
    two = directory.copy()
    two.damaged({two.file(saved[2]): "flip", two.file(saved[1]): "cut"})
    _skips(load, two, saved)
    all_damaged = two.copy()
    all_damaged.damaged({all_damaged.file(saved[0]): "empty"})
    _all_damaged(load, all_damaged)
    _sound_but_unfit(load, directory, saved)
    return "The newest sound file is loaded; damage is skipped and named, and never a fresh start."


def _no_checkpoint(load: Loads, directory: Directory) -> None:
    came = load(directory)
    if came.facts["raised"] or came.facts["returned"] is not None:
        what = came.facts["raised"] or came.facts["returned"]
        raise Wrong(
            f"load_latest(…) in an empty directory: expected None, a fresh start; came {what}.",
            "no_checkpoint",
        )
    if not load.untouched(came):
        raise Wrong("load_latest(…) in an empty directory changed the model.", "no_checkpoint")


def _restored(load: Loads, came: Evidence, directory: Directory, number: int, case: str) -> None:
    """Raise Wrong unless exactly that checkpoint is now in the model."""
    facts = came.facts
    if facts["raised"]:
        raise Wrong(f"{case}: load_latest raised {facts['raised']}: {facts['text']}", "raises")
    if facts["returned"] is None:
        raise Wrong(f"{case}: load_latest returned None, a fresh start.", "fresh_start")
    looked = directory.look()
    got = came.tensors.under("model")
    held = {
        n: looked.tensors.under(f"{directory.file(n)}/model")
        for n in directory.full()
        if looked.facts[directory.file(n)].get("keys")
    }
    if differing(held[number], got):
        which = [n for n, tensors in held.items() if not differing(tensors, got)]
        what = f"number {which[0]}" if which else "no checkpoint"
        damaged = bool(which) and not looked.facts[directory.file(which[0])]["sound"]
        raise Wrong(
            f"{case}: number {number} is to be restored; the model is that of {what}.",
            "unverified" if damaged else "not_newest",
        )


def _newest(load: Loads, directory: Directory, saved: list[int]) -> None:
    case = f"On the disk, all sound: {shown(saved)}"
    came = load(directory, parts=["optimizer", "scheduler", "ema"], locate=True)
    _restored(load, came, directory, saved[-1], case)
    facts = came.facts
    if "path" not in (facts["returned"] or []) or number_in(facts.get("path")) != saved[-1]:
        raise Wrong(
            f'{case}: the result\'s "path" is to be the file that was loaded; it has '
            f"{names(facts['returned'])}.",
            "path",
        )
    if facts["epoch"] != saved[-1]:
        raise Wrong(f"{case}: the result's epoch is {facts['epoch']}.", "epoch")
    if not facts["asked"]:
        raise Wrong(f"{case}: a function given as map_location was never called.", "map_location")
    if float(came.tensors["ema"].array()[0]) != 1.5:
        raise Wrong(f"{case}: load_latest(…, ema=ema) did not restore ema.", "extra")


def _skips(load: Loads, directory: Directory, saved: list[int]) -> None:
    case = f"{saved[2]} with one flipped bit, {saved[1]} cut short, {saved[0]} sound"
    came = load(directory)
    _restored(load, came, directory, saved[0], case)
    said = " ".join(came.facts["warnings"])
    unnamed = [n for n in saved[1:] if f"{n}.pt" not in said]
    if unnamed:
        what = f"the warnings were: {said[:200]!r}" if said else "no warning was given"
        raise Wrong(f"{case}: skipped are to be named; {what}.", "not_named" if said else "silent")


def _all_damaged(load: Loads, directory: Directory) -> None:
    came = load(directory)
    facts, case = came.facts, "Three checkpoints, all of them damaged"
    if not facts["raised"]:
        what = "None, a fresh start" if facts["returned"] is None else "as if it had loaded one"
        raise Wrong(
            f"{case}: expected CheckpointError; load_latest returned {what}.", "fresh_start"
        )
    if "CheckpointError" not in facts["bases"]:
        raise Wrong(f"{case}: expected CheckpointError; came {facts['raised']}.", "wrong_exception")
    if not load.untouched(came):
        raise Wrong(f"{case}: something of them is now in the model.", "unverified")


def _sound_but_unfit(load: Loads, directory: Directory, saved: list[int]) -> None:
    """The newest is sound and lacks a part, or has other shapes: an error, never an older file."""
    lacking = directory.copy()
    # An older file has the scheduler; the newest was saved without one.
    require_all_saved(lacking.process(save(saved[-1] + 1, no_scheduler=True)), "A save")
    wider = directory.copy()
    wider.files = load.trial.trusted(
        "storage_blowup.other_model", {"file": wider.file(saved[-1])}, files=wider.files
    ).files
    cases = {
        "The newest file is sound and was saved without a scheduler; load_latest asks for one": (
            lacking
        ),
        "The newest file is sound and of a wider model": wider,
    }
    for case, there in cases.items():
        facts = load(there).facts
        said = "skipped" if any(".pt" in text for text in facts["warnings"]) else ""
        if not facts["raised"]:
            raise Wrong(
                f"{case}: load_checkpoint's error is to come through; an older file was loaded "
                "instead.",
                "skipped_sound",
            )
        if said:
            raise Wrong(
                f"{case}: it was skipped as damaged ({facts['warnings'][0][:120]}).",
                "skipped_sound",
            )


@decides("storage_blowup.fine_print")
def fine_print(trial: Trial) -> str:
    _arguments(trial)
    _parents(trial)
    first = int(trial.rng.integers(11, 40))
    directory = Directory(trial, keep_last=1, mode=None)
    foreign = {f"run/{name}": trial.rng.bytes(40) for name in FOREIGN}
    directory.files = dict(foreign)
    log = directory.process(
        {"do": "last"}, save(first), {"do": "last"}, save(first + 1), {"do": "last"}
    )
    case = f"A directory with other people's {names(FOREIGN, 9)}"
    for entry, want in zip(log, (None, first, first, first + 1, first + 1), strict=True):
        if entry["raised"]:
            raise Wrong(f"{case}: {entry['raised']}: {entry['text']}", "foreign_read")
        if number_in(entry.get("value")) != want or (want is None and entry["value"]):
            raise Wrong(f"{case}: last() is {entry.get('value')!r}.", "foreign_read")
    gone = [name for name, data in foreign.items() if directory.files.get(name) != data]
    if gone:
        raise Wrong(f"{case}: two saves later, {names(gone)} is gone.", "foreign_deleted")
    if directory.full() != [first + 1]:
        raise Wrong(
            f"{case}: keep_last=1, saves {first}, {first + 1}: on the disk are "
            f"{shown(directory.full())}.",
            "foreign_read",
        )
    return "Arguments, parents and other people's files are as the docstring says."


def _arguments(trial: Trial) -> None:
    wrong: list[dict[str, Any]] = [
        {"keep_last": 0},
        {"keep_last": -int(trial.rng.integers(1, 9))},
        {"keep_every": -int(trial.rng.integers(1, 9))},
        {"mode": "mim"},
        {"mode": "MAX"},
        {"mode": ""},
    ]
    log = trial.probe("storage_blowup.refusals", {"options": wrong}).facts["log"]
    for options, came in zip(wrong, log, strict=True):
        if "ValueError" in (came.get("bases") or []):
            continue
        told = ", ".join(f"{key}={value!r}" for key, value in options.items())
        what = f"raised {came['raised']}" if came["raised"] else "made one"
        raise Wrong(
            f"CheckpointManager(directory, {told}): expected a ValueError; it {what}.", "arguments"
        )


def _parents(trial: Trial) -> None:
    name = "runs/today/deep"
    directory = Directory(trial)
    report = trial.attempt(
        "storage_blowup.manage",
        directory.args([save(3, **{"in": name})], managers={name: {"mode": None}}, pathlike=True),
        tensors=directory.data,
        seconds=SECONDS,
    )[0]
    if report.outcome == "raised" and "OSError" in (report.details.get("bases") or []):
        raise Wrong(
            f"CheckpointManager(Path({name!r})), whose parent is not there: came "
            f"{report.details['type']}: {report.details['text']}",
            "parents",
        )
    evidence = trial.evidence(report)
    require_all_saved(evidence.facts["log"], f"A save into {name}")
