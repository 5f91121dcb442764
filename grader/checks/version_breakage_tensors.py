"""Incident 05, further: a model's weights to a safetensors file and back, ties and all."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from grader.checks.version_breakage_names import draw_names, shown
from grader.evidence import Evidence, Tensors, differing, names
from grader.judge import Trial, Wrong, decides

FILE = "weights.safetensors"


def draw_model(trial: Trial) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(spec, tensors): ties of two and three, equal but untied tensors, odd layouts and dtypes."""
    drawn = draw_names(trial, 19)
    pair, triple, twins, odd, buffers = (
        drawn[:2],
        drawn[2:5],
        drawn[5:7],
        drawn[7:11],
        drawn[11:],
    )
    square, turned, first, *halves = buffers[3:]
    shapes = dict.fromkeys(drawn, (3, 4)) | {odd[1]: (2, 3, 4, 5), buffers[2]: (2, 4)}
    shapes |= {square: (4, 4), turned: (4, 4), first: (2, 4)}
    spec = {
        "names": drawn,
        "buffers": buffers,
        "ties": [pair, triple],
        "dtypes": {odd[2]: "float64", odd[3]: "bfloat16", buffers[0]: "int64"},
        "layouts": {odd[0]: "transposed", odd[1]: "channels last"},
        # Not tied, though they share memory: each name has values of its own.
        "overlapping": {
            buffers[2]: [buffers[1], "rest"],
            turned: [square, "turned"],
            first: [square, "first"],
        },
        "halves": halves,
    }
    tensors = {}
    for side in ("own", "other"):
        values = {name: trial.rng.standard_normal(shape) * 9 for name, shape in shapes.items()}
        for first, *others in [pair, triple, *([twins] if side == "own" else [])]:
            values |= dict.fromkeys(others, values[first])
        tensors |= {f"{side}:{name}": value for name, value in values.items()}
    return spec, tensors


def _exported(trial: Trial, spec: dict[str, Any], tensors: dict[str, np.ndarray]) -> Evidence:
    args = {"spec": spec, "pathlike": bool(trial.rng.integers(2))}
    came = trial.probe("version_breakage_tensors.export", args, tensors=tensors)
    if came.facts["raised"]:
        told = "a model with tied, transposed, channels_last, float64 and bfloat16 tensors"
        raise Wrong(f"export_weights of {told} raised {shown(came.facts)}", "export_fails")
    if FILE not in came.files:
        raise Wrong(f"export_weights(model, {FILE!r}) returned, and there is no such file.", "")
    return came


def _parsed(file: bytes) -> tuple[Tensors, dict[str, str]]:
    try:
        header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
        return Tensors.parse(file), header.get("__metadata__") or {}
    except (ValueError, AttributeError) as error:
        raise Wrong(f"What export_weights wrote is no safetensors file ({error}).", "") from None


@decides("version_breakage.export")
def export(trial: Trial) -> str:
    spec, tensors = draw_model(trial)
    came = _exported(trial, spec, tensors)
    truth = trial.trusted("version_breakage_tensors.exported", {"spec": spec}, tensors=tensors)
    stored, metadata = _parsed(came.files[FILE])
    ties = {name: group for group in spec["ties"] for name in group}
    for name, tensor in truth.tensors.items():
        there = [other for other in ties.get(name, [name]) if other in stored]
        if not there:
            twin = any(stored[other].data == tensor.data for other in stored)
            raise Wrong(
                f"The file does not hold {name}"
                + (", which is equal to another tensor and not tied to it." if twin else "."),
                "equal_is_not_tied" if twin else "not_exported",
            )
        if len(there) > 1:
            raise Wrong(f"{names(there)} are one tensor, and stored {len(there)} times.", "twice")
        got = stored[there[0]]
        if got.dtype != tensor.dtype:
            raise Wrong(f"{name} is {tensor.dtype}, and stored as {got.dtype}.", "other_dtype")
        if got != tensor:
            raise Wrong(f"{name} is stored with other values or another shape.", "not_exported")
    wanted = came.facts["environment"] | {"format": "pt", "format_version": "3"}
    if lost := [key for key, value in wanted.items() if metadata.get(key) != value]:
        raise Wrong(
            f"The file's metadata is {metadata or 'absent'}; it lacks or differs at {names(lost)}.",
            "metadata",
        )
    before, after = came.facts["strides"]
    moved = [name for name in before if before[name] != after.get(name)]
    moved += differing(truth.tensors, came.tensors.under("after"))
    if moved:
        raise Wrong(f"Exporting changed the model's own {names(moved)}.", "export_changes")
    return (
        f"{len(stored)} tensors for {len(truth.tensors)} names, exact; metadata: {len(metadata)}."
    )


def _variants(trial: Trial, spec: dict[str, Any], file: bytes) -> tuple[dict[str, Any], dict]:
    """Imports that must fail: (label -> (path, spec), the files)."""
    extra = draw_names(trial, 1)[0].replace(".", "x.")
    last = spec["buffers"][0]
    more = spec | {"names": [*spec["names"], extra]}
    less = spec | {"names": [name for name in spec["names"] if name != last]}
    less["buffers"] = [name for name in spec["buffers"] if name != last]
    cut = file[: int(len(file) * trial.rng.uniform(0.4, 0.95))]
    files = {FILE: file, "cut.safetensors": cut, "text.safetensors": b"weights, no doubt\n" * 3}
    imports = {
        "more": (FILE, more),
        "less": (FILE, less),
        "cut": ("cut.safetensors", spec),
        "text": ("text.safetensors", spec),
        "absent": ("nowhere.safetensors", spec),
    }
    return imports, files | {"extra": extra}


@decides("version_breakage.import")
def bring_in(trial: Trial) -> str:
    spec, tensors = draw_model(trial)
    exported = _exported(trial, spec, tensors)
    imports, files = _variants(trial, spec, exported.files[FILE])
    extra = files.pop("extra")
    tensors[f"other:{extra}"] = trial.rng.standard_normal((3, 4))
    imports = {"same": (FILE, spec)} | imports
    args = {"imports": imports, "spec": spec}
    # The exported model's values are not for the process that imports.
    other = {key: value for key, value in tensors.items() if key.startswith("other:")}
    came = trial.probe("version_breakage_tensors.bring_in", args, tensors=other, files=files)
    truth = trial.trusted("version_breakage_tensors.brought_in", args, tensors=tensors).tensors
    want = trial.trusted(
        "version_breakage_tensors.exported", {"spec": spec}, tensors=tensors
    ).tensors
    _require_same(came, want, truth, spec)
    told = {
        "more": f"the model has {extra}, which the file lacks",
        "less": "the file has a name that the model lacks",
        "cut": "the file is cut short",
        "text": "the file is a text",
    }
    for label, case in told.items():
        fact = came.facts[label]
        if not fact["raised"]:
            raise Wrong(f"import_weights, where {case}: it returned.", "import_lenient")
        if "CheckpointError" not in fact["bases"]:
            raise Wrong(
                f"import_weights, where {case}: expected a CheckpointError; came {shown(fact)}",
                "wrong_exception",
            )
        untouched = truth.under(f"{label}/untouched")
        if changed := differing(untouched, came.tensors.under(f"{label}/after")):
            raise Wrong(
                f"import_weights, where {case}: it raised, and had changed {names(changed)}.",
                "half_loaded",
            )
    if "FileNotFoundError" not in came.facts["absent"].get("bases", []):
        raise Wrong(
            f"There is no such file: expected FileNotFoundError; came "
            f"{shown(came.facts['absent'])}",
            "no_such_file",
        )
    return f"{len(want)} names came back, tied ones tied; five files that do not fit were refused."


def _require_same(came: Evidence, want: Tensors, truth: Tensors, spec: dict[str, Any]) -> None:
    call, fact = "import_weights into a model tied the same way", came.facts["same"]
    if fact["raised"]:
        raise Wrong(f"{call} raised {shown(fact)}", "import_ties")
    if bad := differing(want, came.tensors.under("same/after")):
        raise Wrong(f"{call}: {names(bad)} came back as other tensors.", "not_exported")
    if bad := differing(truth.under("stepped"), came.tensors.under("same/stepped")):
        tied = {name for group in spec["ties"] for name in group}
        raise Wrong(
            f"{call}, then a step of an optimizer built before: {names(bad)} did not follow it.",
            "unties" if set(bad) & tied else "replaced",
        )
    loaded = fact["report"]["loaded_keys"]
    lost = sorted(set(want) - set(loaded)) if isinstance(loaded, list) else sorted(want)
    if lost:
        raise Wrong(f"{call}: the report's loaded_keys lacks {names(lost)}.", "import_ties")
