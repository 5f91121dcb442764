"""Incident 03, task 1: permissions, links, other people's files; and verify_file."""

from __future__ import annotations

from typing import Any

from grader.checks.ddp_race import draw_tensors, inspect, old_file, raised
from grader.evidence import Evidence, names
from grader.judge import Trial, Wrong, decides


@decides("ddp_race.good_neighbour")
def good_neighbour(trial: Trial) -> str:
    tensors, old = draw_tensors(trial), old_file(trial)
    umasks = [int(n) for n in trial.rng.permutation([0o022, 0o077, 0o027])]
    modes = [int(n) for n in trial.rng.permutation([0o600, 0o640])] + [0o644]
    places = {
        "new": {f"new/u{umask:03o}.pt": umask for umask in umasks},
        "existing": {f"existing/m{mode:03o}.pt": mode for mode in modes},
    }
    there = ["links/store/run.pt", "links/store/other.pt", "hard/a.pt", "hard/a.tmp", "swap/a.tmp"]
    others = {"new/other.tmp": b"1", "new/u022.tmp": b"2", "pair/model.tmp": b"3"}
    report = trial.attempt(
        "ddp_race_files.save_politely",
        {"places": places},
        tensors=tensors,
        files=dict.fromkeys([*there, *places["existing"]], old) | others,
    )[0]
    came = trial.evidence(raised(report, report.stage))
    if "umask" in came.facts:
        before, after = came.facts["umask"]
        raise Wrong(
            f"The process's umask was {before:03o} before atomic_save and is {after:03o} after.",
            "umask",
        )
    listing = {str(name): (kind, mode) for name, kind, _, mode in came.listing}
    for name, umask in places["new"].items():
        for path in (name, f"{name}.second"):
            _require_mode(listing, path, 0o666 & ~umask, f"A new file under umask {umask:03o}")
    for name, mode in places["existing"].items():
        _require_mode(listing, name, mode, f"Saved over a file with mode {mode:03o}")
    for name, to in (("latest", "run"), ("newest", "other")):
        if listing.get(f"links/{name}.pt", ("",))[0] != "other":
            raise Wrong("path was a symbolic link; after the save it is a regular file.", "link")
        if came.files.get(f"links/store/{to}.pt") == old:
            raise Wrong(
                f"path was a symbolic link to {'a file' if to == 'run' else 'a link to a file'}; "
                "the save did not replace that file.",
                "link",
            )
        _require_mode(
            listing, f"links/store/{to}.pt", 0o640, "Saved through a link to a file of 640"
        )
    for name in ("hard/a.pt", "hard/a.tmp"):
        if came.files.get(f"{name}.kept") != old:
            raise Wrong(
                f"A second name (hard link) of the old file shows other bytes after a save to "
                f"{name.split('/')[1]}: the old file was written into.",
                "in_place",
            )
    _require_pairs(trial, came)
    if lost := [name for name, data in others.items() if came.files.get(name) != data]:
        raise Wrong(f"Somebody else's {names(lost)} is gone or changed.", "sweeps")
    wanted = {*places["new"], *(f"{n}.second" for n in places["new"]), *places["existing"]}
    wanted |= {*there, *others, "hard/a.pt.kept", "hard/a.tmp.kept", "pair/model.pt"}
    wanted |= {"pair/model.best", "swap/a.pt", "links/latest.pt", "links/newest.pt", "links/hop.pt"}
    if extra := sorted(set(came.left()) - wanted):
        raise Wrong(f"After the saves there is also {names(extra)}.", "litter")
    return (
        "Permissions, links, other people's files and other saves in the directory: as they were."
    )


def _require_mode(listing: dict[str, tuple[str, int]], name: str, wanted: int, case: str) -> None:
    kind, mode = listing.get(name, ("", 0))
    if kind != "file":
        raise Wrong(f"{case}: there is no file {name}.", "no_file")
    if mode != wanted:
        raise Wrong(f"{case}: it is to have mode {wanted:03o}, and has {mode:03o}.", "mode")


def _require_pairs(trial: Trial, came: Evidence) -> None:
    pairs = {"pair/model.pt": 2, "pair/model.best": 3, "swap/a.tmp": 2, "swap/a.pt": 3}
    there = {name: came.files[name] for name in pairs if name in came.files}
    inside = inspect(trial, {name.replace("/", "-"): data for name, data in there.items()})
    for name, step in pairs.items():
        fact = inside.facts.get(name.replace("/", "-"), {"opens": False})
        if not fact["opens"] or fact["step"] != step:
            how = (
                "does not open" if name in there and not fact["opens"] else "is not what was saved"
            )
            folder = name.split("/")[0]
            two = " and ".join(n.split("/")[1] for n in pairs if n.startswith(folder))
            raise Wrong(
                f"{two} were saved at the same time (one save began during the other): "
                f"{name.split('/')[1]} {how if name in there else 'is not there'}.",
                "shared_temp",
            )


@decides("ddp_race.damage")
def damage(trial: Trial) -> str:
    args = {
        "cuts": [
            float(f) for f in trial.rng.uniform([0.0005, 0.01, 0.4, 0.9], [0.001, 0.3, 0.6, 0.99])
        ],
        "place": float(trial.rng.uniform(0.05, 0.95)),
        "bit": int(trial.rng.integers(8)),
    }
    made = trial.trusted("ddp_race_files.make_damaged", args, tensors=draw_tensors(trial))
    order = [sorted(made.files)[int(i)] for i in trial.rng.permutation(len(made.files))]
    came = trial.probe("ddp_race_files.verify", {"names": order}, files=made.files)
    if "ran-code" in came.left():
        raise Wrong(
            "A file that torch.load's default refuses was opened, and its code ran.", "unsafe"
        )
    if changed := [name for name in order if came.files.get(name) != made.files[name]]:
        raise Wrong(f"After verify_file, {names(changed)} is gone or another file.", "file_changed")
    records = made.facts["records"]
    for name in order:
        _require_verified(name, _damage_told(name, records), came.facts[name])
    absent = came.facts["nowhere.pt"]
    if "FileNotFoundError" not in absent.get("bases", []):
        raise Wrong(
            "There is no such file: expected FileNotFoundError; came "
            f"{absent['raised'] or 'nothing'}.",
            "no_such_file",
        )
    return f"{len(order) - 2} damaged, foreign or unsafe files refused, two sound ones accepted."


def _damage_told(name: str, records: list[str]) -> str:
    stem = name.removesuffix(".pt")
    if stem.startswith("flip"):
        return f"a file with one bit flipped in its record {records[int(stem.split('-')[1])]}"
    if stem.startswith("cut"):
        return "a truncated file"
    return {
        "sound": "a sound file",
        "sound-list": "a sound file that holds a list",
        "legacy": "a file in the format of torch < 1.6",
        "unsafe": "a file that torch.load's default refuses",
        "ordinary": "an ordinary zip file",
        "empty": "an empty file",
    }.get(stem, "a file that torch did not write")


def _require_verified(name: str, told: str, fact: dict[str, Any]) -> None:
    if name.startswith("sound"):
        if fact["raised"]:
            raise Wrong(f"verify_file on {told} raised {fact['raised']}.", "too_strict")
        if fact["returned"] != "None":
            raise Wrong(
                f"verify_file on {told} is to return None; it returned {fact['returned']}.",
                "returns_bool",
            )
    elif not fact["raised"]:
        cause = "bit_unseen" if name.startswith("flip") else "accepts"
        cause = "returns_bool" if fact.get("returned") in ("True", "False") else cause
        raise Wrong(f"verify_file on {told} found nothing wrong.", cause)
    elif "CheckpointError" not in fact["bases"]:
        raise Wrong(
            f"verify_file on {told}: expected CheckpointError; came {fact['raised']}.",
            "wrong_exception",
        )
