"""Incident 05, task 1: sound files are read, damaged and unsafe ones told apart, none runs."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

import numpy as np

from grader.checks.version_breakage_names import WORDS, draw_names, first_difference, shown
from grader.evidence import names
from grader.judge import Trial, Wrong, decides

# The advice that must not reach a reader, as a keyword argument or in torch's own words.
SWITCH = re.compile(r"weights_only\W*(=|\bset to\b|\bto\b)\W*False")
DEFAULT: dict[str, Any] = {}


def draw_class(trial: Trial) -> str:
    """The dotted name of a class that is nowhere: ``labs_4711.nets.Encoder``."""
    first, second, last = (str(word) for word in trial.rng.choice(WORDS, 3, replace=False))
    return f"{first}_{trial.rng.integers(1000, 9999)}.{second}.{last.title()}"


def draw_file(trial: Trial, label: str, **recipe: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """(recipe, tensors) of a file; its largest records are tensors."""
    shapes = [(int(trial.rng.integers(5, 9)), 40), (int(trial.rng.integers(2, 9)),)]
    tensors = {
        f"{label}/{name}": trial.rng.standard_normal(shape).astype(np.float32)
        for name, shape in zip(draw_names(trial, 2), shapes, strict=True)
    }
    tensors[f"{label}/counts"] = trial.rng.integers(0, 99, 3)
    drawn = {
        "epoch": int(trial.rng.integers(0, 50)),
        "loss": float(trial.rng.uniform(0.1, 2)).hex(),
    }
    return drawn | recipe, tensors


def write(trial: Trial, **recipes: dict[str, Any]) -> Any:
    """Trusted code writes a file for each label; the evidence has files, leaves and globals."""
    files, tensors = {}, {}
    for label, recipe in recipes.items():
        files[label], drawn = draw_file(trial, label, **recipe)
        tensors |= drawn
    return trial.trusted("version_breakage.write", {"files": files}, tensors=tensors)


def read(trial: Trial, files: dict[str, bytes], *blocks: Any, pathlike: bool = False) -> Any:
    args = {"blocks": list(blocks), "pathlike": pathlike}
    return trial.probe("version_breakage.read", args, files=files)


@decides("version_breakage.reads")
def reads(trial: Trial) -> str:
    allowed = draw_class(trial)
    written = write(
        trial,
        zip={},
        legacy={"legacy": True},
        elsewhere={"elsewhere": True},
        thing={"classes": [allowed]},
        old_thing={"classes": [allowed], "legacy": True},
    )
    plain = [
        ["zip", "zip.pt", DEFAULT],
        ["legacy", "legacy.pt", DEFAULT],
        ["elsewhere", "elsewhere.pt", DEFAULT],
        ["meta", "zip.pt", {"map_location": "meta"}],
    ]
    things = [["thing", "thing.pt", DEFAULT], ["old_thing", "old_thing.pt", DEFAULT]]
    pathlike = bool(trial.rng.integers(2))
    came = read(trial, written.files, [[], plain], [[allowed], things], pathlike=pathlike).facts
    told = {
        "zip": ("A sound file", "not_read"),
        "legacy": ("A sound file in the format of torch before 1.6", "legacy_unknown"),
        "elsewhere": ("A file saved on a GPU, read where there is none", "map_location"),
        "meta": ('map_location="meta"', "map_location"),
    }
    for label, (case, cause) in told.items():
        _require_read(case, label, written.facts["leaves"].get(label), came, cause)
    for before, after in came["allowed"]:
        if changed := sorted(set(before) ^ set(after)):
            raise Wrong(
                f"After safe_load torch.load has another list of what it allows: {names(changed)}.",
                "list_changed",
            )
    for label in ("thing", "old_thing"):
        case = f"Inside safe_globals([{allowed}]), a file that holds one"
        _require_read(case, label, written.facts["leaves"][label], came, "refuses_allowed")
    return "Both formats, other devices, and classes that the caller had allowed: read, exactly."


def _require_read(case: str, label: str, want: Any, came: dict[str, Any], cause: str) -> None:
    if came["came"][label]["raised"]:
        raise Wrong(f"{case}: safe_load raised {shown(came['came'][label])}", cause)
    got = came["read"][label]
    if label == "meta":
        if not all(leaf.endswith("on meta") for leaf in got.values() if "tensor" in leaf):
            raise Wrong(f"{case}: the tensors came back on another device.", cause)
    elif said := first_difference(want, got):
        raise Wrong(f"{case} was read, and is not what it holds: {said}", "read_partly")


def _flipped(trial: Trial, data: bytes) -> bytes:
    """One bit flipped in a tensor's record. In a small file data.pkl may be the largest one."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        records = [info for info in archive.infolist() if "/data/" in info.filename]
    record = max(records, key=lambda info: info.file_size)
    # The local header: 30 bytes, then name and extra field, whose lengths are at 26 and 28.
    start = record.header_offset + 30
    start += int.from_bytes(data[start - 4 : start - 2], "little")
    start += int.from_bytes(data[record.header_offset + 28 : record.header_offset + 30], "little")
    place = start + int(trial.rng.integers(record.file_size))
    changed = bytearray(data)
    changed[place] ^= 1 << int(trial.rng.integers(8))
    return bytes(changed)


def _cut(trial: Trial, data: bytes, least: float) -> bytes:
    return data[: int(len(data) * trial.rng.uniform(least, 0.97))]


def _not_a_checkpoint() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "holiday pictures")
    return archive.getvalue()


@decides("version_breakage.damaged")
def damaged(trial: Trial) -> str:
    blocked = draw_class(trial)
    written = write(trial, a={}, b={"classes": [blocked]}, c={"legacy": True})
    a, b, c = (written.files[f"{label}.pt"] for label in "abc")
    first, second = (str(word) for word in trial.rng.choice(WORDS, 2, replace=False))
    cases = {
        "cut": ("A file that was cut short", _cut(trial, a, 0.2)),
        "cut legacy": ("A legacy file that was cut short", _cut(trial, c, 0.6)),
        "bit": ("A file with one bit flipped in a tensor", _flipped(trial, a)),
        "bit, unsafe": (
            f"A file that holds {blocked}, with one bit flipped in a tensor",
            _flipped(trial, b),
        ),
        "empty": ("A file of 0 bytes", b""),
        "text": (f'A text, "# {first}\\n"', f"# {first}\n".encode()),
        # As a pickle it would name a global: a reader that is honest about that is right too.
        "odd text": (f'A text, "c{first}\\n{second}\\n"', f"c{first}\n{second}\n".encode()),
        "picture": ("A picture", b"\x89PNG\r\n\x1a\n" + trial.rng.bytes(400)),
        "archive": ("A zip archive of something else", _not_a_checkpoint()),
    }
    order = [list(cases)[int(i)] for i in trial.rng.permutation(len(cases))]
    files = {f"run-{number}.pt": cases[label][1] for number, label in enumerate(order)}
    wanted = [[label, f"run-{number}.pt", DEFAULT] for number, label in enumerate(order)]
    wanted.append(["absent", "nowhere.pt", DEFAULT])
    came = read(trial, files, [[], wanted]).facts["came"]
    for label, (case, _) in cases.items():
        _require_damaged(case, label, came[label])
    if "FileNotFoundError" not in came["absent"].get("bases", []):
        raise Wrong(
            f"There is no such file: expected FileNotFoundError; came {shown(came['absent'])}",
            "no_such_file",
        )
    return f"{len(cases)} files that are damaged or no checkpoints: each said so."


def _require_damaged(case: str, label: str, came: dict[str, Any]) -> None:
    if not came["raised"]:
        cause = "no_checksum" if label.startswith("bit") else "damage_accepted"
        raise Wrong(f"{case}: safe_load returned.", cause)
    if "UnsafeCheckpointError" in came["bases"] and label != "odd text":
        raise Wrong(
            f"{case}: expected a CheckpointError that is no UnsafeCheckpointError; "
            f"came {shown(came)}",
            "damage_first" if label == "bit, unsafe" else "called_unsafe",
        )
    if "CheckpointError" not in came["bases"]:
        raise Wrong(f"{case}: expected a CheckpointError; came {shown(came)}", "wrong_exception")


@decides("version_breakage.refused")
def refused(trial: Trial) -> str:
    drawn = [draw_class(trial) for _ in range(int(trial.rng.integers(5, 8)))]
    alone, allowed = draw_class(trial), draw_class(trial)
    written = write(
        trial,
        several={"classes": drawn},
        numpy={"numpy": True},
        scalar={"scalar": True},
        legacy={"classes": [alone], "legacy": True},
        partly={"classes": [allowed, alone]},
    )
    blocked = written.facts["blocked"] | {"legacy": [alone], "partly": [alone]}
    whole = ("several", "numpy", "scalar", "legacy")
    wanted = [[label, f"{label}.pt", DEFAULT] for label in whole]
    partly = [["partly", "partly.pt", DEFAULT]]
    came = read(trial, written.files, [[], wanted], [[allowed], partly]).facts["came"]
    for label, case in (
        ("several", f"A file that holds {len(drawn)} classes of somebody's"),
        ("numpy", "A file that holds a np.float64 and torch.__version__"),
        ("scalar", "A file that holds a np.float64"),
        ("legacy", "A legacy file that holds a class of somebody's"),
        ("partly", f"Inside safe_globals([{allowed}]), a file that holds one, and another class"),
    ):
        _require_refused(case, blocked[label], came[label])
    if allowed in came["partly"]["globals"]:
        raise Wrong(
            f"Inside safe_globals([{allowed}]), a file that holds one and a {alone}: blocked is "
            f"{alone}; the error's globals is {came['partly']['globals']}.",
            "not_blocked",
        )
    return f"Refused by name: {names(drawn)}; and NumPy's, in either format."


def _require_refused(case: str, blocked: list[str], came: dict[str, Any]) -> None:
    if not came["raised"]:
        raise Wrong(f"{case}: safe_load returned. Blocked are {names(blocked)}.", "allows_itself")
    if "UnsafeCheckpointError" not in came["bases"]:
        cause = "called_damaged" if "CheckpointError" in came["bases"] else "wrong_exception"
        raise Wrong(f"{case}: expected UnsafeCheckpointError; came {shown(came)}", cause)
    if came["globals_type"] != "list":
        raise Wrong(f"{case}: the error's globals is a {came['globals_type']}.", "globals_type")
    if lost := [name for name in blocked if name not in came["globals"]]:
        short = {name.rpartition(".")[2] for name in blocked} & set(came["globals"])
        raise Wrong(
            f"{case}: the error's globals is {came['globals']}; it lacks {names(lost)}.",
            "short_names" if short else "not_every_name",
        )
    if lost := [name for name in blocked if name not in came["text"]]:
        raise Wrong(f"{case}: the message does not name {names(lost)}.", "names_in_message")
    if SWITCH.search(came["text"]):
        raise Wrong(
            f"{case}: the message tells how to switch safe reading off.", "switch_in_message"
        )
    if "safe_globals" not in came["text"]:
        raise Wrong(f"{case}: the message does not say what to do: {came['text']!r}", "no_advice")
    if SWITCH.search(came["printed"]):
        raise Wrong(
            f"{case}: the message is fine, and the traceback printed with it tells how to switch "
            "safe reading off: it shows torch's own error as well.",
            "chained",
        )


@decides("version_breakage.runs_nothing")
def runs_nothing(trial: Trial) -> str:
    word, number = str(trial.rng.choice(WORDS)), int(trial.rng.integers(1000, 9999))
    recipes, traces = {}, {}
    for label, legacy in (("zip", False), ("legacy", True)):
        traces[label] = trace = f"{word}-{label}-{number}.txt"
        calls = [
            ["shutil.copyfile", ["sound.pt", trace]],
            ["shutil.copy", ["sound.pt", trace]],
            ["io.open", [trace, "w"]],
        ]
        recipes[label] = {"legacy": legacy, "calls": calls[int(trial.rng.integers(3))]}
    written = write(trial, sound={}, **recipes)
    wanted = [[label, f"{label}.pt", DEFAULT] for label in ("sound", "zip", "legacy")]
    came = read(trial, written.files, [[], wanted])
    if error := came.facts["came"]["sound"]["raised"]:
        raise Wrong(f"A sound file beside it was not read: {error}.", "not_read")
    for label, case in (("zip", "a checkpoint"), ("legacy", "a legacy checkpoint")):
        call = "{}({})".format(recipes[label]["calls"][0], ", ".join(recipes[label]["calls"][1]))
        if traces[label] in came.left():
            raise Wrong(
                f"Reading {case} whose pickle calls {call}: the file {traces[label]} is there. "
                "Code from the checkpoint has run in your process.",
                "code_ran",
            )
        error = came.facts["came"][label]
        if not error["raised"]:
            raise Wrong(f"{case.capitalize()} that calls {call} was read.", "allows_itself")
        if "CheckpointError" not in error["bases"]:
            raise Wrong(
                f"Reading {case} whose pickle calls {call}: expected UnsafeCheckpointError; came "
                f"{shown(error)}",
                "wrong_exception",
            )
    return f"Two files that would have written {names(traces.values())}: nothing is there."
