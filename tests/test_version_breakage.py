"""Incident 05: the legacy files, the reference's errors, and what the checks draw."""

from __future__ import annotations

import hashlib
import json
import sys
from itertools import islice, permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from grader import registry
from grader.checks.version_breakage import SWITCH
from grader.checks.version_breakage_names import fresh_words
from grader.judge_process import answer
from grader.paths import NOTEBOOKS, SOLUTIONS

LEGACY = NOTEBOOKS / "legacy"
MANIFEST = json.loads((LEGACY / "manifest.json").read_text())["files"]
NOTEBOOK = SOLUTIONS / "05_version_breakage.py"


@pytest.fixture
def compat(monkeypatch):
    """The reference's savepoint.compat, imported for this test alone."""
    monkeypatch.syspath_prepend(str(SOLUTIONS))
    before = {name for name in sys.modules if name.partition(".")[0] == "savepoint"}
    import savepoint.compat

    yield savepoint.compat
    for name in [n for n in sys.modules if n.partition(".")[0] == "savepoint"]:
        if name not in before:
            del sys.modules[name]


def replay(runner, probe, **args):
    request = {"replay": f"version_breakage_notebook.{probe}", "args": args}
    reply = answer(request | {"savepoint": str(SOLUTIONS)}, runner)
    assert reply["ok"], reply
    return reply["facts"]


def test_the_legacy_files_are_the_ones_described():
    for name, about in MANIFEST.items():
        assert hashlib.sha256((LEGACY / name).read_bytes()).hexdigest() == about["sha256"], name
    writers = [about["wrote"]["torch"].split(".")[0] for about in MANIFEST.values()]
    assert writers.count("1") >= 7, "authentic old files, not imitations"


def test_every_legacy_file_comes_back_with_its_accuracy(runner, tmp_path):
    from workbench import digits

    validation = tmp_path / "validation.pt"
    torch.save({"x": digits().val_x, "y": digits().val_y}, validation)
    files = {
        name: {
            "format": about["format"],
            "rename": about["architecture"].get("rename_to_workbench", []),
        }
        for name, about in MANIFEST.items()
    }
    read = replay(
        runner, "read_legacy", folder=str(LEGACY), files=files, validation=str(validation)
    )
    for name, about in MANIFEST.items():
        assert abs(read[name]["accuracy"] - about["accuracy"]) < 1e-6, name
        if "blocked_globals" in about["today"]:
            assert read[name]["blocked"] == about["today"]["blocked_globals"], name


@pytest.mark.parametrize("name", [name for name, a in MANIFEST.items() if "then_drew" in a])
def test_migrated_generators_draw_what_the_writer_drew(runner, name):
    assert replay(runner, "drawn_next", path=str(LEGACY / name)) == MANIFEST[name]["then_drew"]


def test_errors_group_what_differs_and_say_what_is_likely(compat):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3), nn.LayerNorm(3))
    weights = {f"_orig_mod.{name}": value for name, value in model.state_dict().items()}
    weights |= {"2.weight": torch.zeros(4), "head.gain": torch.zeros(7)}
    del weights["_orig_mod.2.weight"]
    with pytest.raises(compat.CheckpointError) as caught:
        compat.load_weights(model, weights)
    _, missing, unexpected, shapes, likely = str(caught.value).splitlines()
    assert missing.count(",") == 4 and "0.weight" in missing and "2.bias" in missing
    assert unexpected.count("_orig_mod.") == 5 and "head.gain" in unexpected
    assert "2.weight" in shapes and "(4,)" in shapes and "(3,)" in shapes
    assert "'_orig_mod.' to ''" in likely and "(5)" in likely


def test_errors_tell_damaged_from_unsafe_and_name_versions(compat, tmp_path):
    path = tmp_path / "file.pt"
    torch.save({"best": np.float64(1), "where": SimpleNamespace()}, path)
    with pytest.raises(compat.UnsafeCheckpointError) as caught:
        compat.safe_load(path)
    assert "types.SimpleNamespace" in caught.value.globals and len(caught.value.globals) == 3
    assert all(name in str(caught.value) for name in caught.value.globals)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(compat.CheckpointError) as caught:
        compat.safe_load(path)
    assert not isinstance(caught.value, compat.UnsafeCheckpointError)
    with pytest.raises(compat.CheckpointError, match=r"17.*3"):
        compat.migrate({"format_version": 17, "model_state_dict": {}})


def test_drawn_words_are_told_apart():
    """Messages are searched for names: none may be part of another."""
    words = list(islice(fresh_words(SimpleNamespace(rng=np.random.default_rng(0))), 400))
    assert not [(a, b) for a, b in permutations(words, 2) if a in b]


def test_the_switch_is_recognised_however_it_is_written():
    for text in ("weights_only=False", "`weights_only` set to `False`", "weights_only = False"):
        assert SWITCH.search(text), text
    assert not SWITCH.search("torch.load(path, weights_only=True) returned False")


def test_nobody_is_told_to_switch_safe_reading_off():
    incident = registry.incidents()["version_breakage"]
    texts = [NOTEBOOK.read_text(), *incident.misconceptions.values()]
    texts += [hint for check in incident.checks for hint in check.hints]
    texts += [path.read_text() for path in (SOLUTIONS / "savepoint").glob("compat*.py")]
    for text in texts:
        assert "weights_only=False" not in text
    # Its one use is the child that shows what it does, and is called what not to do.
    assert NOTEBOOK.read_text().count('"weights_only": False') == 1
    assert "what not to do" in NOTEBOOK.read_text()
