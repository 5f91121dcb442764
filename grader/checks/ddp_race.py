"""Incident 03, task 1 and verify_file: a file that is whole, whatever happens in its making."""

from __future__ import annotations

from typing import Any

import numpy as np

from grader.client import Report
from grader.evidence import Evidence, names
from grader.judge import Failed, Trial, Wrong, decides

RANKS = 16  # processes that save at the same time, each in a directory of its own
# Calls at which a save can be cut in two; a kill just before and just after each that it makes.
DECISIVE = (
    *("open", "replace", "rename", "unlink", "remove", "link", "sendfile", "truncate", "write"),
    *("write_end_of_file", "flush", "close"),
)
NAME = "model[1].pt"  # as in the probe
OTHERS = {"pair.tmp": b"somebody else's", "notes.txt": b"keep"}


def draw_tensors(trial: Trial) -> dict[str, np.ndarray]:
    """A small checkpoint's worth: several records, the largest of 40 kB."""
    sizes = [int(n) for n in trial.rng.integers(500, 1500, 3)] + [10_000]
    return {f"t{i}": trial.rng.standard_normal(n).astype(np.float32) for i, n in enumerate(sizes)}


def old_file(trial: Trial) -> bytes:
    made = trial.trusted("ddp_race_files.make_file", {"step": 1}, tensors=draw_tensors(trial))
    return made.files["model.pt"]


def inspect(trial: Trial, files: dict[str, bytes]) -> Evidence:
    return trial.trusted("ddp_race_files.inspect_files", {"names": list(files)}, files=files)


def raised(report: Report, case: str) -> Report:
    """The report, if the call did not raise; else Wrong, with the cause that its text names."""
    error = report.details
    if report.outcome != "raised" or "NotImplementedError" in error.get("bases", []):
        return report
    text, stage = str(error.get("text")), report.stage
    signs = {
        "other_disk": "ross-device" in text or "another disk" in stage or "processes" in case,
        "not_replaced": error.get("type") == "FileExistsError",
        "shared_temp": " is saved too" in stage,
        "link": " link" in stage,
    }
    cause = next((cause for cause, holds in signs.items() if holds), None)
    if cause is None:
        raise Failed(report)
    raise Wrong(f"{case} raised {error.get('type')}: {text[:200]}", cause)


@decides("ddp_race.old_or_new")
def old_or_new(trial: Trial) -> str:
    tensors, old = draw_tensors(trial), old_file(trial)
    counted = trial.attempt(
        "ddp_race_files.save_in_ranks",
        {"plans": [{"folder": "r0", "kill": None, "count": True}], "step": 2},
        tensors=tensors,
        files={f"r0/{NAME}": old},
    )[0]
    whole = trial.evidence(raised(counted, "Saving over an existing file"))
    _require_saved(trial, whole, tensors)
    kills = _draw_kills(trial, whole.facts)
    plans = [{"folder": f"r{rank}", "kill": kill} for rank, kill in enumerate(kills)]
    # Where there is no file yet; rank 2 is killed there while it pickles.
    fresh = {2, *(int(r) for r in trial.rng.choice(np.arange(3, len(kills)), 3, replace=False))}
    there = {f"r{r}/{NAME}": old for r in range(len(plans)) if r not in fresh}
    there |= {f"r{r}/{name}": data for r in range(len(plans)) for name, data in OTHERS.items()}
    reports = trial.attempt(
        "ddp_race_files.save_in_ranks",
        {"plans": plans, "step": 2, "umask": 0o077},
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
    if f"r0/{NAME}" not in whole.files:
        raise Wrong(
            "atomic_save(obj, path) returned, and there is no file at path; in the directory: "
            f"{names(whole.left()) or 'nothing'}.",
            "no_file",
        )
    inside = inspect(trial, {"new.pt": whole.files[f"r0/{NAME}"]})
    facts = inside.facts["new.pt"]
    if not facts["opens"]:
        raise Wrong("torch.load, with its default, does not open what was saved.", "not_torch_save")
    if not facts["zip"]:
        raise Wrong("What was saved is not in torch's zip format.", "not_torch_save")
    if facts["step"] != 2:
        raise Wrong(
            "Saved over an existing file. When the call returned, path still held the old one.",
            "too_early",
        )


def _draw_kills(trial: Trial, counted: dict[str, Any]) -> list[Any]:
    """Instants: as the call returns, inside the pickling, around every decisive call, random."""
    kills: list[Any] = ["after", "inside", "inside"]
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
        raised(report, f"{len(plans)} processes saved to {len(plans)} directories at once; one")
        if report.outcome not in ("ok", "exited"):
            raise Failed(report)
    others = {n: d for n, d in files.items() if n.endswith(f"/{NAME}") and d != old}
    inside = inspect(trial, {n.replace("/", "-"): d for n, d in others.items()})
    counts = [0, 0]
    for rank, plan in enumerate(plans):
        name = f"{plan['folder']}/{NAME}"
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
    # Files come without their modes: those of what the killed saves left are put back.
    modes = {str(n): int(m) for n, kind, _, m in left.listing if kind == "file"}
    again = [
        {"folder": f, "kill": None, "modes": {n: modes[n] for n in modes if n.startswith(f + "/")}}
        for f in (plan["folder"] for plan in plans)
    ]
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
        if extra := sorted(there - {NAME, *OTHERS}):
            raise Wrong(f"{killed} succeeded and left, beside it: {names(extra)}.", "left_behind")
        mode = next((int(m) for n, _, _, m in report.listing if n == folder + NAME), 0)
        if folder + NAME not in left.files and mode != 0o644:
            raise Wrong(
                f"A first save under umask 077 was killed {_instant(plan['kill'])}. The next, "
                f"under umask 022, made a file with mode {mode:03o} instead of 644.",
                "stale_mode",
            )


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
        if kind != "none" and not came.facts[folder]["raised"]:
            raise Wrong(
                f"{kind} while saving: atomic_save returned as if it had saved.", "swallows"
            )
    for folder, kind in folders.items():
        errors = came.facts[folder]["raised"]
        case = f"atomic_save over an existing file, with {kind} while it saves"
        if kind == "none":
            if errors:
                raise Wrong(
                    f"After failed saves to other paths, one raised {errors[0]}.", "blocked"
                )
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
        if kind != "full disk" and kind not in errors:
            raise Wrong(
                f"{case}: what came out was {errors[0]}, without that as its cause.", "swallows"
            )
        left = [n for n in came.left() if n.startswith(folder + "/")]
        if extra := [n.split("/", 1)[1] for n in left if n != f"{folder}/model.pt"]:
            raise Wrong(f"{case}: beside the old file there is now {names(extra)}.", "litter")
    return "Five kinds of error: each reached the caller; the old file, and nothing else, is there."
