"""Incident 01: the docstrings' other promises, and the further tasks."""

from __future__ import annotations

from typing import Any

from grader.checks.resumed import (
    AFTER,
    MOMENTUM,
    Experiment,
    draw_batches,
    inspected,
    opened,
    require_keys,
    require_opens,
    require_refusal,
    require_returned,
    resume_all,
    save_all,
    written,
)
from grader.evidence import Evidence, differing, names
from grader.judge import Run, Trial, Wrong, decides, in_turn


@decides("lr_reset.invisible")
def invisible(trial: Trial) -> str:
    """Save into missing directories, train on, save over it: as if nothing had been saved."""
    path = "runs/today/epoch.10"
    told = {"epoch": 0, "loss": (0.0).hex(), "paths": [path], "save_again": path}
    starts: list[dict[str, Any]] = []
    saves, plain = [], []
    for in_eval in (False, True):
        spec = {"optimizer": "adamw", "lr": 0.02, "schedule": "none"}
        starts.append({"spec": spec, "seed": trial.draw_seed(), "eval": in_eval})
        batches = draw_batches(trial, 5) | draw_batches(trial, AFTER, "2")
        saves.append(Run("lr_reset.save", starts[-1] | told | {"pathlike": in_eval}, batches))
        plain.append(Run("lr_reset.uninterrupted", starts[-1], batches))
    saved = trial.probe_each(saves)
    files = [written(evidence, path) for evidence in saved]
    truths = trial.trusted_each(plain)
    insides = inspected(trial, *files)
    for start, *evidence in zip(starts, saved, truths, insides, strict=True):
        _require_undisturbed(start["eval"], path, *evidence)
    return "A run that saves is the run that never saved; each file holds its own moment."


def _require_undisturbed(
    in_eval: bool, path: str, saved: Evidence, plain: Evidence, inside: Evidence
) -> None:
    if others := sorted(set(saved.left()) - {path}):
        raise Wrong(f"Beside the checkpoint there is now {names(others)}.", "litter")
    truth, kept_on = plain.tensors, saved.tensors
    if differing(truth.under("end"), kept_on.under("end")) or any(
        differing(truth.under(f"step{n}"), kept_on.under(f"step{n}")) for n in range(1, AFTER + 1)
    ):
        before = "eval" if in_eval else "train (one batch norm in eval)"
        raise Wrong(
            "A run that saved and trained on differs from one that never saved. "
            f"The model's mode before the save: {before}.",
            "save_disturbs",
        )
    require_opens(inside.facts)
    if "scheduler_state_dict" not in (inside.facts["none"] or []):
        raise Wrong(
            'Saved with scheduler=None: "scheduler_state_dict" is to be in the file, as None.',
            "keys",
        )
    # The second save must hold the state of its own moment.
    if differing(truth.under(f"step{AFTER}"), inside.tensors.under("model")):
        raise Wrong(
            f"Saved, trained {AFTER} more steps, saved to the same path: the file does not hold "
            "the weights of that moment.",
            "stale",
        )


@decides("lr_reset.fine_print")
def fine_print(trial: Trial) -> str:
    experiment = Experiment(
        trial, MOMENTUM | {"schedule": "drawing", "odd": True}, eval=True, resave=True
    )
    saves = []
    for epoch in (4, 5):
        told = {"epoch": epoch, "loss": (0.5).hex()}
        start = {"spec": MOMENTUM, "seed": trial.draw_seed()}
        saves.append(Run("lr_reset.save", start | told, draw_batches(trial, 3)))
    first, second = (written(saved) for saved in save_all(trial, [experiment], *saves))
    args = {"spec": MOMENTUM, "other_seed": trial.draw_seed()}
    files = {"first.pt": first, "second.pt": second}
    absent, reloaded = resume_all(
        trial,
        [experiment],
        Run("lr_reset_files.missing_file", {"spec": MOMENTUM, "seed": trial.draw_seed()}),
        Run("lr_reset_files.reload", args, files=files),
    )
    _require_returns_and_modes(trial, experiment)
    if "FileNotFoundError" not in absent.facts.get("bases", []):
        came = absent.facts["raised"] or "nothing was raised"
        raise Wrong(f"There is no such file: expected FileNotFoundError; {came}.", "no_such_file")
    _require_read_anew(trial, reloaded, first, second)
    return "Nothing else is returned, changed or demanded."


def _require_read_anew(trial: Trial, reloaded: Evidence, *files: bytes) -> None:
    """A file that another has replaced is another file."""
    insides = inspected(trial, *files)
    for inside in insides:
        require_opens(inside.facts)
    truths = [inside.tensors.under("model") for inside in insides]
    got = reloaded.tensors.under("second")
    if reloaded.facts["second"] != 5 or differing(truths[1], got):
        raise Wrong(
            "Loaded checkpoint.pt, replaced it by another checkpoint, loaded it again in the same "
            f"process: expected epoch 5 and its weights; got epoch {reloaded.facts['second']}"
            + ("." if differing(truths[0], got) else ", with the first file's weights."),
            "stale",
        )


def _require_returns_and_modes(trial: Trial, experiment: Experiment) -> None:
    facts = experiment.resumed.facts
    if facts["training"]:
        raise Wrong("The model was in eval mode before the load, and in train mode after.", "mode")
    require_returned(experiment)
    experiment.require_same()
    truth, got = experiment.truth.tensors.under("end"), experiment.resumed.tensors.under("end")
    if bad := differing(truth, got):
        raise Wrong(
            "All weights agree. The scheduler draws random numbers while it loads, and at the end "
            f"these generators stand elsewhere: {names(bad)}.",
            "rng_not_last",
        )
    again = opened(trial, written(experiment.resumed))
    if differing(experiment.inside.tensors, again.tensors):
        raise Wrong("Loaded, and saved to the same path at once: another file.", "resave")


@decides("lr_reset.elsewhere")
def elsewhere(trial: Trial) -> str:
    """A file from a machine with a GPU, loaded where there is none; and map_location handed on."""
    spec = MOMENTUM | {"schedule": "step"}
    # Epoch 0 and a loss of 0.0 are values like others.
    start = {"spec": spec, "seed": trial.draw_seed(), "epoch": 0, "loss": (0.0).hex()}
    batches = draw_batches(trial, 3)
    file = written(trial.probe("lr_reset.save", start, tensors=batches))
    require_keys(opened(trial, file).facts)
    moved = trial.trusted("lr_reset_files.retag", files={"checkpoint.pt": file})
    after = draw_batches(trial, 3)
    again = {"spec": spec, "other_seed": trial.draw_seed()}
    runs = [
        Run("lr_reset.resume", again, after, moved.files),
        Run("lr_reset_files.locate", again, files={"checkpoint.pt": file}),
    ]
    report = trial.attempt(**in_turn(runs))[0]
    if report.outcome == "raised" and "deserialize" in str(report.details.get("text")):
        raise Wrong(
            "A checkpoint whose tensors were saved on a GPU does not load on a machine without "
            "one, called without map_location.",
            "map_location",
        )
    loaded, asked = trial.evidence_of_each(report, len(runs))
    returned = loaded.facts["returned"]
    if (returned.get("epoch"), returned.get("loss")) != (0, (0.0).hex()):
        raise Wrong(
            f"Saved with epoch=0 and loss=0.0; load_checkpoint returned {returned.get('epoch')} "
            f"and {returned.get('loss')}.",
            "too_strict" if returned["type"] == "dict" else "returns",
        )
    if loaded.files.get("checkpoint.pt") != moved.files["checkpoint.pt"]:
        raise Wrong("After load_checkpoint the file is gone or another one.", "file_changed")
    if not asked.facts["asked"]:
        raise Wrong("A function given as map_location was never called.", "map_location")
    none = {name: array[:0] for name, array in after.items()}
    everything = batches | {name + "2": array for name, array in none.items()}
    truth = trial.trusted("lr_reset.uninterrupted", start, tensors=everything).tensors
    if bad := differing(truth.under("end/draws"), asked.tensors.under("draws")):
        raise Wrong(
            f"Loaded with model=… alone: these generators were not restored: {names(bad)}.",
            "rng_all" if len(bad) >= 3 else f"rng_{bad[0].split(':')[0]}",
        )
    return "A file from another machine loads here, and is still there afterwards."


@decides("lr_reset.extra_state")
def extra_state(trial: Trial) -> str:
    spec = {"optimizer": "adamw", "lr": 0.02, "schedule": "cosine", "extras": True}
    experiment = Experiment(trial, spec)
    save_all(trial, [experiment])
    args = {"spec": spec, "other_seed": trial.draw_seed()}
    asked = {"files": {"checkpoint": ["optimizer", "sampler"]}}
    file = {"checkpoint.pt": experiment.file}
    without = Run("lr_reset_files.try_incomplete", args | asked, files=file)
    (tried,) = resume_all(trial, [experiment], without)
    require_opens(experiment.inside.facts)
    truth, got = experiment.truth.tensors, experiment.resumed.tensors
    saved = "Saved with ema=…, average=<its len() is 0>, scaler=<disabled>, sampler=None."
    if bad := differing(truth.under("loaded/extra"), got.under("loaded/extra")):
        raise Wrong(f"{saved} Another state after the load: {names(bad)}.", "extra")
    keys = experiment.inside.facts["keys"] or []
    wanted = [f"{name}_state_dict" for name in ("ema", "average", "scaler")]
    if absent := [key for key in wanted if key not in keys]:
        raise Wrong(f"{saved} The file lacks {names(absent)}.", "extra_keys")
    if "sampler_state_dict" in keys:
        raise Wrong(f"{saved} An extra that is None is to be left out of the file.", "extra_none")
    require_returned(experiment)
    if differing(truth.under("end"), got.under("end")) or experiment.first_difference():
        raise Wrong(
            f"{experiment.parted(experiment.first_difference() or AFTER)}\n"
            "One of the extras draws random numbers while it loads.",
            "rng_not_last",
        )
    # An extra that was never saved is asked for: the sampler that was None.
    fresh = trial.trusted("lr_reset_files.fresh_objects", args).tensors
    changed = bool(differing(fresh, tried.tensors.under("checkpoint")))
    call = "load_checkpoint(path, model=…, optimizer=…, sampler=…)"
    case = "A file that was saved with sampler=None"
    require_refusal(case, call, "sampler_state_dict", tried.facts["checkpoint"], changed)
    return "The extras came back; one that draws while loading disturbed nothing."


@decides("lr_reset.read_back")
def read_back(trial: Trial) -> str:
    good = ["empty", "zero", "no scheduler"]
    bad = ["none", "unreadable", "optimizer none", "scheduler none"]
    kinds = good + bad
    order = [kinds[int(i)] for i in trial.rng.permutation(len(kinds))]
    saves = {f"run-{number}": kind for number, kind in enumerate(order)}
    args = {"spec": MOMENTUM, "seed": trial.draw_seed(), "saves": saves}
    tried = trial.probe("lr_reset_files.read_back", args)
    told = {
        "none": "an extra whose state_dict() is None",
        "unreadable": "an extra whose state torch.load refuses by default",
        "empty": "an extra whose state is {}",
        "zero": "an extra whose state is {'n': 0}",
        "no scheduler": "scheduler=None",
        "optimizer none": "an optimizer whose state_dict() is None",
        "scheduler none": "a scheduler whose state_dict() is None",
    }
    for name, kind in saves.items():
        came = tried.facts[name]
        if kind in bad:
            if not came["raised"]:
                raise Wrong(f"Saved with {told[kind]}: save_checkpoint returned.", "unvalidated")
            if "CheckpointError" not in came["bases"]:
                raise Wrong(
                    f"Saved with {told[kind]}: expected CheckpointError; came {came['raised']}: "
                    f"{came['text']}",
                    "wrong_exception",
                )
        elif came["raised"]:
            raise Wrong(
                f"Saved with {told[kind]}, which is complete; came {came['raised']}: "
                f"{came['text']}",
                "too_strict",
            )
    return "Incomplete or unreadable files are noticed when they are written."
