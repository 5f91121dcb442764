"""Incident 02: what the bank and the generic tests do not cover."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from workbench import gaps, reproducibility

from grader.paths import SOLUTIONS

SCRIPT = """
import os, random, torch

def _train(steps, noise=0.0):
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 1)
    losses = []
    for step in range(steps):
        loss = model(torch.randn(8, 4)).square().mean()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
        losses.append(loss.item() + (noise if step == 3 else 0.0))
    return losses, model

def seeded():
    return _train(6)

def unseeded_from_step_3():
    return _train(6, noise=0.1 * random.random())

def other_length():
    return _train(6 + (hash("a string") % 97))

def losses_agree_and_weights_do_not():
    losses, model = _train(6)
    with torch.no_grad():
        model.bias += hash("a string") % 1000
    return losses, model

def raises():
    raise ValueError("a bug of its own")
"""


def assert_reproducible(name: str, folder) -> None:
    """As a team's own test calls it: from a copy of the file, beside the script."""
    shutil.copyfile(reproducibility.__file__, folder / "reproducibility.py")
    (folder / "script.py").write_text(SCRIPT)
    call = f"from reproducibility import assert_reproducible as a; a('script:{name}')"
    done = subprocess.run(
        [sys.executable, "-c", call], cwd=folder, capture_output=True, text=True, timeout=200
    )
    if done.returncode:
        raise AssertionError(done.stderr.strip().splitlines()[-1])


def test_a_seeded_run_is_reproducible(tmp_path):
    assert_reproducible("seeded", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("unseeded_from_step_3", "two runs part at step 3: loss 0"),
        ("other_length", "two runs part at step"),
        ("losses_agree_and_weights_do_not", "the losses agree and these tensors do not: ['bias']"),
        ("raises", "ValueError: a bug of its own"),
    ],
)
def test_a_run_that_is_not_is_told_with_its_step(name, said, tmp_path):
    with pytest.raises(AssertionError) as raised:
        assert_reproducible(name, tmp_path)
    assert said in str(raised.value)


@pytest.mark.slow
def test_every_source_parts_two_runs_while_open_and_none_when_closed():
    """The notebook's matrix, what a CPU can show of it: two processes a run."""
    sources = [source for source in gaps.SOURCES if not source.needs_gpu]
    names = [source.name for source in sources]
    closed = ("python", "workers", "validation", "threads_cnn")  # closed, the others are "python"
    runs = gaps.pairs([f"{n}:open" for n in names] + [f"{n}:closed" for n in closed])
    # Whether two threads sum a small MLP's products as one does depends on the processor's own
    # matrix code: on some machines only the CNN shows it.
    threads = {"threads", "threads_cnn"}
    losses = {name: [run["loss"] for run in runs[f"{name}:open"]] for name in names}
    parted = {name for name in names if gaps.parts(*losses[name]) is not None}
    assert set(names) - threads <= parted and parted & threads, parted
    for name in names:
        a, b = runs[f"{name}:open"]
        assert len(a["loss"]) == gaps.EPOCHS * gaps.STEPS_PER_EPOCH
        assert (a["weights"] != b["weights"]) == (name in parted), name
    for name in closed:
        a, b = runs[f"{name}:closed"]
        assert a == b, name
    # The validation loop's first chance is the second epoch's order.
    a, b = runs["validation:open"]
    assert gaps.parts(a["loss"], b["loss"]) == gaps.STEPS_PER_EPOCH
    # One thread and two, a network in which that does not grow: every printed loss agrees.
    if "threads" in parted:
        assert gaps.parts(*losses["threads"], "{:.4f}".format) is None


LOADER = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from savepoint.seeding import seeded_loader

class Drawing:
    def __init__(self):
        self.rng = np.random.default_rng(0)
    def __len__(self):
        return 8
    def __getitem__(self, index):
        return index, np.random.random_sample(), self.rng.random()

loader = seeded_loader(Drawing(), seed=7, batch_size=2, num_workers=2, persistent_workers=True)
for epoch in map(int, sys.argv[2].split(",")):
    loader.sampler.set_epoch(epoch)
    drawn = [column.tolist() for batch in loader for column in batch]
print(drawn)
"""


@pytest.mark.slow
def test_the_reference_resumes_a_run_whose_workers_draw():
    """seeding.py's "better still": epoch 5 in a fresh process, with persistent workers too."""
    said = [
        subprocess.run(
            [sys.executable, "-c", LOADER, str(SOLUTIONS), epochs],
            capture_output=True,
            text=True,
            timeout=200,
            check=True,
        ).stdout
        for epochs in ("0,1,5", "5")
    ]
    assert said[0] == said[1] != ""
