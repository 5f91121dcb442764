"""Incident 03, task 1 and verify_file: a file that is whole, whatever happens while it is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from grader.client import Report
from grader.evidence import Evidence, differing, names
from grader.judge import Failed, Trial, Wrong, decides

RANKS = 16  # processes that save at the same time, each in a directory of its own
# Calls at which a save can be cut in two; a kill just before and just after each that it makes.
DECISIVE = (
    *("open", "replace", "rename", "unlink", "remove", "link", "sendfile", "truncate", "write"),
    *("write_end_of_file", "flush", "close"),
)
OTHERS = {"pair.tmp": b"somebody else's", "notes.txt": b"keep"}


def draw_tensors(trial: Trial) -> dict[str, np.ndarray]:
    """A small checkpoint's worth: several records, the largest of 40 kB."""
    sizes = [int(n) for n in trial.rng.integers(500, 1500, 3)] + [10_000]
    return {f"t{i}": trial.rng.standard_normal(n).astype(np.float32) for i, n in enumerate(sizes)}


def old_file(trial: Trial) -> bytes:
    made = trial.trusted(
        "ddp_race_files.make_file", {"step": 1}, tensors=draw_tensors(trial)
    )
    return made.files["model.pt"]


def inspect(trial: Trial, files: dict[str, bytes]) -> Evidence:
    return trial.trusted("ddp_race_files.inspect_files", {"names": list(files)}, files=files)


@decides("ddp_race.old_or_new")
def old_or_new(trial: Trial) -> str:
    tensors, old = draw_tensors(trial), old_file(trial)
    counted = trial.attempt(
        "ddp_race_files.save_in_ranks",
        {"plans": [{"folder": "r0", "kill": None, "count": True}], "step": 2},
        tensors=tensors,
        files={"r0/model.pt": old},
    )[0]
    whole = trial.evidence(counted)
    _require_saved(trial, whole, tensors)
    kills = _draw_kills(trial, whole.facts)
    plans = [{"folder": f"r{rank}", "kill": kill} for rank, kill in enumerate(kills)]
    fresh = {int(r) for r in trial.rng.choice(np.arange(2, len(kills)), 3, replace=False)}
    there = {f"r{r}/model.pt": old for r in range(len(plans)) if r not in fresh}
    there |= {f"r{r}/{name}": data for r in range(len(plans)) for name, data in OTHERS.items()}
    reports = trial.attempt(
        "ddp_race_files.save_in_ranks",
        {"plans": plans, "step": 2},
        tensors=tensors,
        files=there,
        world_size=len(plans),
        **_independent(),
    )
    found = _require_old_or_new(trial, plans, reports, old, tensors, fresh)
    _require_next_save(trial, plans, reports[0])
    return (
        f"{len(plans)} saves killed at {len(plans)} instants: {found[0]} left the old file, "
        f"{found[1]} the new one; the next save left nothing else."
    )


def _independent() -> dict[str, Any]:
    # Ranks that are killed one by one: a real torchrun would end all at the first.
    return {"independent": True, "seconds": 20}


def _require_saved(trial: Trial, whole: Evidence, tensors: dict[str, np.ndarray]) -> None:
    if "r0/model.pt" not in whole.files:
        raise Wrong(
            "atomic_save(obj, path) returned, and there is no file at path; in the directory: "
            f"{names(whole.left()) or 'nothing'}.",
            "no_file",
        )
    inside = inspect(trial, {"new.pt": whole.files["r0/model.pt"]})
    facts = inside.facts["new.pt"]
    if not facts["opens"]:
        raise Wrong("torch.load, with its default, does not open what was saved.", "not_torch_save")
    if not facts["zip"]:
        raise Wrong("What was saved is not in torch's zip format.", "not_torch_save")
    if facts["step"] != 2:
        raise Wrong("Saved over an existing file: the old one is still there.", "not_replaced")


def _draw_kills(trial: Trial, counted: dict[str, Any]) -> list[Any]:
    """Instants: as the call returns, inside the pickling, around every decisive call, random."""
    kills: list[Any] = ["after", "inside"]
    decisive = []
    for key, count in counted["seen"].items():
        name = str(key).split(" ")[0]
        if name in DECISIVE:
            numbers = {0, int(count) - 1}
            decisive += [[str(key), number] for number in sorted(numbers)]
    decisive.sort(key=lambda kill: DECISIVE.index(kill[0].split(" ")[0]))
    renames = [k for k in decisive if k[0].split(" ")[0] in DECISIVE[1:7]]
    rest = [k for k in decisive if k not in renames]
    kills += renames[:9]
    room = RANKS - len(kills)
    chosen = trial.rng.permutation(len(rest))[: room // 2]
    kills += [rest[int(i)] for i in chosen]
    events = max(int(counted["events"]), 2)
    return kills + [int(n) for n in trial.rng.integers(1, events, RANKS - len(kills))]


def _instant(kill: Any) -> str:
    if kill == "after":
        return "as soon as atomic_save had returned"
    if kill == "inside":
        return "while the object was being pickled"
    if isinstance(kill, int):
        return f"{kill} calls into the save"
    name, when = kill[0].split(" ")
    return f"just {'before' if when == 'c_call' else 'after'} a call of {name}"


def _require_old_or_new(
    trial: Trial,
    plans: list[dict[str, Any]],
    reports: list[Report],
    old: bytes,
    tensors: dict[str, np.ndarray],
    fresh: set[int],
) -> tuple[int, int]:
    """Raise Wrong unless each rank's file is the old one or the new one, whole."""
    files = reports[0].files
    for report in reports:
        if report.outcome not in ("ok", "exited"):
            raise Failed(report)
    others = {n: d for n, d in files.items() if n.endswith("/model.pt") and d != old}
    inside = inspect(trial, {n.replace("/", "-"): d for n, d in others.items()})
    counts = [0, 0]
    for rank, plan in enumerate(plans):
        name = f"{plan['folder']}/model.pt"
        killed = f"Killed (SIGKILL) {_instant(plan['kill'])}: "
        if name not in files:
            if rank in fresh and plan["kill"] != "after":
                counts[0] += 1
                continue
            cause = "too_early" if plan["kill"] == "after" else "gap"
            raise Wrong(f"{killed}there is no file at path at all.", cause)
        if files[name] == old:
            if plan["kill"] == "after":
                raise Wrong(f"{killed}path still holds the old file.", "too_early")
            counts[0] += 1
            continue
        flat = name.replace("/", "-")
        if not inside.facts[flat]["opens"] or not _same(inside, flat, tensors):
            raise Wrong(
                f"{killed}path holds {len(files[name])} bytes that are neither the old file nor "
                "the new one.",
                _torn(plan["kill"]),
            )
        counts[1] += 1
    return counts[0], counts[1]


def _torn(kill: Any) -> str:
    if isinstance(kill, list) and kill[0].split(" ")[0] in ("replace", "rename"):
        return "flush_late"
    return "in_place"


def _same(inside: Evidence, name: str, tensors: dict[str, np.ndarray]) -> bool:
    got = inside.tensors.under(name)
    return all(key in got and got[key].data == array.tobytes() for key, array in tensors.items())


def _require_next_save(trial: Trial, plans: list[dict[str, Any]], left: Report) -> None:
    """Another process saves where each killed one did: it succeeds, and leaves one file."""
    again = [{"folder": plan["folder"], "kill": None} for plan in plans]
    reports = trial.attempt(
        "ddp_race_files.save_in_ranks",
        {"plans": again, "step": 3},
        tensors=draw_tensors(trial),
        files=left.files,
        world_size=len(again),
        **_independent(),
    )
    for plan, report in zip(plans, reports, strict=True):
        killed = f"A save was killed (SIGKILL) {_instant(plan['kill'])}. The next save to path"
        if report.outcome == "raised":
            kind, text = report.details.get("type"), str(report.details.get("text"))[:200]
            raise Wrong(f"{killed} raised {kind}: {text}", "blocked")
        if report.outcome != "ok":
            raise Failed(report)
        folder = plan["folder"] + "/"
        there = {str(n).removeprefix(folder) for n, *_ in report.listing if n.startswith(folder)}
        if lost := sorted(set(OTHERS) - there):
            raise Wrong(f"{killed} removed {names(lost)}, which is not its own.", "sweeps")
        if extra := sorted(there - {"model.pt", *OTHERS}):
            raise Wrong(f"{killed} succeeded and left, beside it: {names(extra)}.", "left_behind")


@decides("ddp_race.after_an_error")
def after_an_error(trial: Trial) -> str:
    tensors, old = draw_tensors(trial), old_file(trial)
    kinds = ["KeyboardInterrupt", "RuntimeError", "OSError", "ValueError", "full disk", "none"]
    order = [kinds[int(i)] for i in trial.rng.permutation(5)] + ["none"]
    folders = {f"e{number}": kind for number, kind in enumerate(order)}
    came = trial.probe(
        "ddp_race_files.save_with_errors",
        {"errors": folders},
        tensors=tensors,
        files={f"{folder}/model.pt": old for folder in folders},
    )
    for folder, kind in folders.items():
        raised = came.facts[folder]["raised"]
        case = f"atomic_save over an existing file, with {kind} while it saves"
        if kind == "none":
            if raised:
                raise Wrong(f"After failed saves to other paths, one raised {raised[0]}.", "blocked")
            if came.files.get(f"{folder}/model.pt") == old:
                raise Wrong("After failed saves to other paths, one did nothing.", "not_replaced")
            continue
        now = came.files.get(f"{folder}/model.pt")
        if now is None:
            raise Wrong(f"{case}: the old file is gone.", "deletes_old")
        if now != old:
            raise Wrong(
                f"{case}: the old file is another one now ({len(old)} bytes before, {len(now)} "
                "after).",
                "in_place",
            )
        if not raised:
            raise Wrong(f"{case}: it returned as if it had saved.", "swallows")
        if kind != "full disk" and kind not in raised:
            raise Wrong(
                f"{case}: what came out was {raised[0]}, without that as its cause.", "swallows"
            )
        left = [n for n in came.left() if n.startswith(folder + "/")]
        if extra := [n.split("/", 1)[1] for n in left if n != f"{folder}/model.pt"]:
            raise Wrong(f"{case}: beside the old file there is now {names(extra)}.", "litter")
    return "Five kinds of error: each reached the caller; the old file, and nothing else, is there."


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
    came = trial.probe(
        "ddp_race_files.save_politely",
        {"places": places},
        tensors=tensors,
        files=dict.fromkeys([*there, *places["existing"]], old) | others,
    )
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
    return "Permissions, links, other people's files and other saves in the directory: as they were."


def _require_mode(
    listing: dict[str, tuple[str, int]], name: str, wanted: int, case: str
) -> None:
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
            how = "does not open" if name in there and not fact["opens"] else "is not what was saved"
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
        "cuts": [float(f) for f in trial.rng.uniform([0.0005, 0.01, 0.4, 0.9], [0.001, 0.3, 0.6, 0.99])],
        "place": float(trial.rng.uniform(0.05, 0.95)),
        "bit": int(trial.rng.integers(8)),
    }
    made = trial.trusted("ddp_race_files.make_damaged", args, tensors=draw_tensors(trial))
    order = [sorted(made.files)[int(i)] for i in trial.rng.permutation(len(made.files))]
    came = trial.probe("ddp_race_files.verify", {"names": order}, files=made.files)
    if "ran-code" in came.left():
        raise Wrong("A file that torch.load's default refuses was opened, and its code ran.", "unsafe")
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
    return f"{len(order) - 1} damaged, foreign or unsafe files refused, the sound one accepted."


def _damage_told(name: str, records: list[str]) -> str:
    stem = name.removesuffix(".pt")
    if stem.startswith("flip"):
        return f"a file with one bit flipped in its record {records[int(stem.split('-')[1])]}"
    if stem.startswith("cut"):
        return "a truncated file"
    return {
        "sound": "a sound file",
        "legacy": "a file in the format of torch < 1.6",
        "unsafe": "a file that torch.load's default refuses",
        "ordinary": "an ordinary zip file",
        "empty": "an empty file",
    }.get(stem, "a file that torch did not write")


def _require_verified(name: str, told: str, fact: dict[str, Any]) -> None:
    if name == "sound.pt":
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
