"""Incident 01: the docstrings' other promises, and the further tasks."""

from __future__ import annotations

from grader.checks.resumed import (
    MOMENTUM,
    Experiment,
    draw_batches,
    opened,
    require_opens,
    require_refusal,
    require_returned,
    written,
)
from grader.evidence import differing, names
from grader.judge import Trial, Wrong, decides


@decides("lr_reset.invisible")
def invisible(trial: Trial) -> str:
    """Save into missing directories, train on, save over it: as if nothing had been saved."""
    spec = {"optimizer": "adamw", "lr": 0.02, "schedule": "none"}
    path = "runs/today/checkpoint.pt"
    told = {"epoch": 0, "loss": (0.0).hex(), "paths": [path], "pathlike": True}
    start = {"spec": spec, "seed": trial.draw_seed()}
    batches = draw_batches(trial, 7) | draw_batches(trial, 8, "2")
    saved = trial.probe("lr_reset.save", start | told | {"save_again": path}, tensors=batches)
    file = written(saved, path)
    if others := sorted(set(saved.left()) - {path}):
        raise Wrong(f"Beside the checkpoint there is now {names(others)}.", "litter")
    truth = trial.trusted("lr_reset.uninterrupted", start, tensors=batches).tensors
    kept_on = saved.tensors
    if differing(truth.under("end"), kept_on.under("end")) or any(
        differing(truth.under(f"step{n}"), kept_on.under(f"step{n}")) for n in range(1, 9)
    ):
        mode = "" if saved.facts.get("training") else " The model is no longer in train mode."
        raise Wrong(
            f"The run that saved and went on differs from one that never saved.{mode}",
            "save_disturbs",
        )
    # The second save must hold the state of its own moment.
    if differing(truth.under("step8"), opened(trial, file).tensors.under("model")):
        raise Wrong(
            "Saved, trained 8 more steps, saved to the same path: the file does not hold the "
            "weights of that moment.",
            "stale",
        )
    return "A run that saves is the run that never saved; each file holds its own moment."


@decides("lr_reset.fine_print")
def fine_print(trial: Trial) -> str:
    _returns_and_modes(trial)
    _other_devices(trial)
    absent = trial.probe(
        "lr_reset_files.missing_file", {"spec": MOMENTUM, "seed": trial.draw_seed()}
    )
    if "FileNotFoundError" not in absent.facts.get("bases", []):
        came = absent.facts["raised"] or "nothing was raised"
        raise Wrong(f"There is no such file: expected FileNotFoundError; {came}.", "no_such_file")
    return "Nothing else is returned, changed or demanded."


def _returns_and_modes(trial: Trial) -> None:
    spec = MOMENTUM | {"schedule": "step"}
    experiment = Experiment(trial, spec, eval=True, resave=True)
    facts = experiment.resumed.facts
    if facts["training"]:
        raise Wrong("The model was in eval mode before the load, and in train mode after.", "mode")
    require_returned(experiment)
    experiment.require_same()
    again = opened(trial, written(experiment.resumed))
    if differing(experiment.inside.tensors, again.tensors):
        raise Wrong("Loaded, and saved to the same path at once: another file.", "resave")


def _other_devices(trial: Trial) -> None:
    """A file from a machine with a GPU, loaded where there is none; and map_location handed on."""
    spec = MOMENTUM | {"schedule": "step"}
    start = {"spec": spec, "seed": trial.draw_seed(), "epoch": 1, "loss": (0.5).hex()}
    file = written(trial.probe("lr_reset.save", start, tensors=draw_batches(trial, 3)))
    moved = trial.trusted("lr_reset_files.retag", files={"checkpoint.pt": file})
    after = draw_batches(trial, 3)
    again = {"spec": spec, "other_seed": trial.draw_seed()}
    report = trial.attempt("lr_reset.resume", again, tensors=after, files=moved.files)[0]
    if report.outcome == "raised" and "deserialize" in str(report.details.get("text")):
        raise Wrong(
            "A checkpoint whose tensors were saved on a GPU does not load on a machine without "
            "one, called without map_location.",
            "map_location",
        )
    loaded = trial.evidence(report)
    if loaded.files.get("checkpoint.pt") != moved.files["checkpoint.pt"]:
        raise Wrong("After load_checkpoint the file is gone or another one.", "file_changed")
    asked = trial.probe("lr_reset_files.locate", again, files={"checkpoint.pt": file})
    if not asked.facts["asked"]:
        raise Wrong("A function given as map_location was never called.", "map_location")


@decides("lr_reset.extra_state")
def extra_state(trial: Trial) -> str:
    spec = {"optimizer": "adamw", "lr": 0.02, "schedule": "cosine", "extras": True}
    experiment = Experiment(trial, spec)
    require_opens(experiment.inside.facts)
    truth, got = experiment.truth.tensors, experiment.resumed.tensors
    saved = "Saved with ema=…, average=…, scaler=<disabled>, sampler=None."
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
            f"{experiment.told(experiment.first_difference() or 8)}\n"
            "One of the extras draws random numbers while it loads.",
            "rng_not_last",
        )
    _missing_extra(trial)
    return "The extras came back; one that draws while loading disturbed nothing."


def _missing_extra(trial: Trial) -> None:
    """An extra that was never saved is asked for."""
    spec = MOMENTUM | {"schedule": "step"}
    start = {"spec": spec, "seed": trial.draw_seed(), "epoch": 3, "loss": (0.5).hex()}
    file = written(trial.probe("lr_reset.save", start, tensors=draw_batches(trial, 3)))
    args = {"spec": spec, "other_seed": trial.draw_seed()}
    asked = {"files": {"checkpoint": ["optimizer", "ema"]}}
    tried = trial.probe(
        "lr_reset_files.try_incomplete", args | asked, files={"checkpoint.pt": file}
    )
    fresh = trial.trusted("lr_reset_files.fresh_objects", args).tensors
    changed = bool(differing(fresh, tried.tensors.under("checkpoint")))
    call = "load_checkpoint(path, model=…, optimizer=…, ema=…)"
    case = "A file that was saved without ema"
    require_refusal(case, call, "ema_state_dict", tried.facts["checkpoint"], changed)


@decides("lr_reset.read_back")
def read_back(trial: Trial) -> str:
    kinds = ["none", "unreadable", "empty", "zero", "no scheduler", "optimizer none"]
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
    }
    for name, kind in saves.items():
        came = tried.facts[name]
        if kind in ("none", "unreadable", "optimizer none"):
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
