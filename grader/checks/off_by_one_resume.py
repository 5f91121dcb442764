"""Incident 04: resume(...), from where it may be called."""

from __future__ import annotations

from typing import Any

from grader.checks.off_by_one import numbers
from grader.checks.off_by_one_kills import run_all
from grader.checks.off_by_one_plans import PER_EPOCH, PER_STEP, draw_plan
from grader.checks.resumed import draw_batches
from grader.client import Report
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Trial, Wrong, decides

SPEC = {"optimizer": "sgd", "lr": 0.02, "schedule": "exponential"}
FRESH = "resume(path, …) where there is no file"
WHOLE_FILE_PARTS = ("progress", "sampler", "optimizer", "scheduler", "ema")


@decides("off_by_one.any_step")
def any_step(trial: Trial) -> str:
    per_step = [str(s) for s in trial.rng.permutation(PER_STEP)]
    per_epoch = [str(s) for s in trial.rng.permutation(PER_EPOCH)]
    plans = {
        "ends": draw_plan(trial, per_step[0], ["first step", "last step"]),
        "boundary": draw_plan(trial, per_epoch[0], ["last batch of an epoch", "epoch boundary"]),
        "random": draw_plan(trial, per_epoch[1], 3),
        "once": draw_plan(trial, per_step[1], 1),
    }
    steps = run_all(trial, plans)
    kills = sum(len(plan.kills) for plan in plans.values())
    return (
        f"Four runs, four schedules, {kills} kills (first and last step and an epoch's end among "
        f"them): all {steps} steps as if never killed, to the bit, every sample once an epoch."
    )


@decides("off_by_one.fresh_start")
def fresh_start(trial: Trial) -> str:
    for path, on_its_way in (("run.pt", 0), ("runs/today/run.pt", int(trial.rng.integers(1, 4)))):
        told = {"spec": SPEC, "seed": trial.draw_seed(), "on_its_way": on_its_way}
        call = {"call": True, "path": path, "pathlike": bool(trial.rng.integers(2))}
        came = trial.probe("off_by_one_files.no_file", told | call)
        if "raised" in came.facts:
            raise Wrong(f"{FRESH}: came {came.facts['raised']}.", "no_file_raises")
        if came.facts["returned"] != "False":
            raise Wrong(f"{FRESH} returned {came.facts['returned']}.", "returns_false")
        if came.left():
            raise Wrong(f"{FRESH}: afterwards there is {names(came.left())}.", "litter")
        made = trial.trusted("off_by_one_files.truth", told).tensors
        if bad := differing(made, came.tensors):
            drawn = [name for name in bad if "/draws/" in name]
            raise Wrong(
                f"{FRESH} changed {names(name.removeprefix('state/') for name in bad)}.",
                "touches_generators" if len(drawn) == len(bad) else "touches",
            )
        without = trial.probe("off_by_one_files.no_file", told | {"call": False}).tensors
        if bad := differing(without, came.tensors):
            raise Wrong(
                f"{FRESH}, with a progress and a sampler that are on their way: it changed "
                f"{names(name.removeprefix('state/') for name in bad)}.",
                "touches",
            )
    return "No file: False, and objects, generators and disk are as they were."


def _saved(trial: Trial) -> tuple[dict[str, Any], dict[str, Any], Evidence]:
    """A run saved in the middle of epoch 1: what it was told, its batches, its evidence."""
    told = {"spec": SPEC, "seed": trial.draw_seed()}
    batches = draw_batches(trial, int(trial.rng.integers(2, 5)))
    saved = trial.probe("off_by_one_files.save", told, tensors=batches)
    if "run.pt" not in saved.files:
        raise Wrong("save_checkpoint(path, …) returned, and there is no file.", "")
    return told, batches, saved


DAMAGES = {
    "truncated": "cut off in the middle",
    "empty": "of length 0",
    "overwritten": "overwritten with a web page",
    "no checkpoint": "which holds a list",
    "pickle": "which is a pickle that runs code",
}


@decides("off_by_one.damaged")
def damaged(trial: Trial) -> str:
    _, _, saved = _saved(trial)
    lacks = [f"{part}_state_dict" for part in WHOLE_FILE_PARTS] + ["rng_state", "model_state_dict"]
    kinds = [*DAMAGES, *lacks]
    # Which file has which damage is drawn: a loader that knows must have looked.
    order = [kinds[int(i)] for i in trial.rng.permutation(len(kinds))]
    variants = {f"run-{number}": kind for number, kind in enumerate(order)}
    share = float(trial.rng.uniform(0.3, 0.9))
    made = trial.trusted(
        "off_by_one_files.make_damaged",
        {"variants": variants, "share": share},
        files={"run.pt": saved.files["run.pt"]},
    )
    again = {"spec": SPEC, "other_seed": trial.draw_seed()}
    tried = trial.probe(
        "off_by_one_files.try_damaged", again | {"files": list(variants)}, files=made.files
    )
    fresh = trial.probe("off_by_one_files.untouched", again).tensors.under("state")
    for name, kind in variants.items():
        came, state = tried.facts[name], tried.tensors.under(name)
        case = f"A file {DAMAGES[kind]}" if kind in DAMAGES else f'A file that lacks "{kind}"'
        if came["raised"] is None:
            cause = "damaged_is_fresh" if came["returned"] == "False" else "incomplete_accepted"
            raise Wrong(f"{case}: resume(…) returned {came['returned']}.", cause)
        if kind in DAMAGES:
            continue
        if "CheckpointError" not in came["bases"]:
            raise Wrong(f"{case}: expected CheckpointError; came {came['raised']}.", "error_type")
        if bad := differing(fresh, state):
            raise Wrong(
                f"{case}: CheckpointError, and it had already changed {names(bad)}.", "too_late"
            )
    return f"{len(variants)} damaged or incomplete files: each an error, never a fresh start."


@decides("off_by_one.group")
def group(trial: Trial) -> str:
    told, batches, files = _saved_by_two(trial)
    reports = _resumed(trial, ["run.pt", "run.pt"], files)
    came = [trial.evidence(report) for report in reports]
    said = [evidence.facts.get("returned", evidence.facts.get("raised")) for evidence in came]
    if said != ["True", "True"]:
        raise Wrong(f"Two ranks called resume(…). Came, by rank: {', '.join(said)}.", "rank_alone")
    for rank, evidence in enumerate(came):
        args = told | {"draws": rank + 1}
        truth = trial.trusted("off_by_one_files.truth", args, tensors=batches).tensors
        bad = [name.removeprefix("state/") for name in differing(truth, evidence.tensors)]
        if bad:
            generators = all(name.startswith("draws/") for name in bad)
            raise Wrong(
                f"Two ranks saved together and resumed together. On rank {rank} other than "
                f"before: {names(bad)}.",
                "rank_generators" if generators else "rank_alone",
            )
        if numbers(evidence, "state/fields", 4) != [0, 2, 3, 1]:
            raise Wrong(f"Rank {rank} did not get its progress back.", "rank_alone")
    shares = [numbers(evidence, "state/samples", None) for evidence in came]
    if len({index for share in shares for index in share}) != 16 or len(shares[0]) != 8:
        raise Wrong("Together the two ranks do not go on with what is left.", "rank_alone")
    _one_rank_sees_no_file(trial, files)
    return "Two ranks: each with its own generators, and the same answer on both."


def _saved_by_two(trial: Trial) -> tuple[dict[str, Any], dict[str, Any], dict[str, bytes]]:
    told = {"spec": SPEC, "seed": trial.draw_seed()}
    batches = draw_batches(trial, 3)
    reports = trial.attempt("off_by_one_files.save_ranks", told, tensors=batches, world_size=2)
    saved = [trial.evidence(report) for report in reports]
    return told, batches, {"run.pt": saved[0].files["run.pt"]}


def _resumed(trial: Trial, paths: list[str], files: dict[str, bytes]) -> list[Report]:
    args = {"spec": SPEC, "other_seed": trial.draw_seed(), "paths": paths}
    return trial.attempt(
        "off_by_one_files.resume_ranks", args, files=files, world_size=len(paths), seconds=8
    )


def _one_rank_sees_no_file(trial: Trial, files: dict[str, bytes]) -> None:
    """Ranks on two disks: whatever comes of it, it must be the same on both."""
    reports = _resumed(trial, ["run.pt", "elsewhere/run.pt"], files)
    said = []
    for report in reports:
        raised = "an error" if "raised" in report.facts else "no answer"
        said.append(report.facts.get("returned", raised))
    if said[0] != said[1] or "no answer" in said:
        raise Wrong(
            "Rank 0 is given a path where the file is, rank 1 one where nothing is. Came, by rank: "
            f"{', '.join(said)}.",
            "rank_decides",
        )


@decides("off_by_one.fine_print")
def fine_print(trial: Trial) -> str:
    told, batches, saved = _saved(trial)
    truth = trial.trusted("off_by_one_files.truth", told, tensors=batches).tensors
    again = {"spec": SPEC, "other_seed": trial.draw_seed()}
    _runs_nothing(trial, saved.files["run.pt"], again)
    moved = trial.trusted("off_by_one_files.retag", files={"run.pt": saved.files["run.pt"]})
    report = trial.attempt(
        "off_by_one_files.resume", again | {"redirect": False}, files=moved.files
    )[0]
    if report.outcome == "raised" and "deserialize" in str(report.details.get("text")):
        raise Wrong(
            "A checkpoint whose tensors were saved on a GPU cannot be resumed on a machine without "
            "one, called without map_location.",
            "map_location",
        )
    came = trial.evidence(report)
    _require_all_back(truth, saved.tensors, came)
    redirected = trial.probe(
        "off_by_one_files.resume", again | {"redirect": True}, files=saved.files
    )
    if not redirected.facts["asked"]:
        raise Wrong("A function given as map_location was never called.", "map_location")
    if redirected.files.get("run.pt") != saved.files["run.pt"]:
        raise Wrong("After resume(…) the file is gone or another one.", "file_changed")
    return "Extras, map_location and the file itself: as the docstring says."


def _require_all_back(truth: Tensors, saved: Tensors, came: Evidence) -> None:
    """After a resume from mid-epoch, saved with a loss that was not the best one."""
    if came.facts["returned"] != "True":
        raise Wrong(f"resume(…) returned {came.facts['returned']}, not True.", "returns_true")
    if differing(saved.under("state/extra"), came.tensors.under("state/extra")):
        raise Wrong("resume(…, ema=…): the extra did not get its state back.", "extra")
    for name, said in (("fields", "progress"), ("best", "best_loss"), ("samples", "position")):
        if saved.get(f"state/{name}") != came.tensors.get(f"state/{name}"):
            cause = {"best": "best_lost", "samples": "sampler_lost"}.get(name, "counters_lost")
            raise Wrong(f"Saved in the middle of epoch 1; resumed, another {said}.", cause)
    bad = [name.removeprefix("state/") for name in differing(truth, came.tensors)]
    if bad and all(name.startswith("draws/") for name in bad):
        raise Wrong(
            "Resumed with an extra that draws random numbers while it loads: the generators are "
            "not where they were saved.",
            "rng_not_last",
        )
    if bad == ["lr"]:
        raise Wrong("Resumed, and the learning rate of the next step is another.", "schedule")
    if bad:
        raise Wrong(f"Resumed with an extra: {names(bad)} did not come back.", "part_lost")


def _runs_nothing(trial: Trial, file: bytes, again: dict[str, Any]) -> None:
    """A checkpoint with a pickle in it that runs code when it is opened unsafely."""
    made = trial.trusted(
        "off_by_one_files.make_damaged",
        {"variants": {"run-0": "unsafe", "run-1": "pickle"}, "share": 0.5},
        files={"run.pt": file},
    )
    tried = trial.probe(
        "off_by_one_files.try_damaged", again | {"files": ["run-0", "run-1"]}, files=made.files
    )
    if "it-ran" in tried.left():
        raise Wrong("A file that runs code when it is unpickled was resumed: it ran.", "unsafe")
    for came in tried.facts.values():
        if came["raised"] is None:
            raise Wrong(
                f"torch.load refuses a file by default: resume(…) returned {came['returned']}.",
                "damaged_is_fresh",
            )


def require_other_world(trial: Trial) -> None:
    """Saved by two ranks in the middle of an epoch, resumed by one and by three."""
    _, _, files = _saved_by_two(trial)
    for world_size in (1, 3):
        reports = _resumed(trial, ["run.pt"] * world_size, files)
        came = [trial.evidence(report) for report in reports]
        told = f"Saved by 2 ranks in the middle of an epoch, resumed by {world_size}"
        for evidence in came:
            if evidence.facts.get("returned") != "True":
                said = evidence.facts.get("returned", evidence.facts.get("raised"))
                raise Wrong(f"{told}: came {said}.", "world_refused")
        every = [i for e in came for i in numbers(e, "state/samples", None)]
        left = 16
        if len(set(every)) < left or len(every) != left + -left % world_size:
            raise Wrong(
                f"{told}: of {left} samples left {len(set(every))} are yielded, in all "
                f"{len(every)} indices.",
                "world_size",
            )
