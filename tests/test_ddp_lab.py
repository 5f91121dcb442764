"""Notebook 07's training script, started, killed, restarted and shrunk by a real torchrun."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
from workbench.lab import Lab

from grader import registry
from grader.judge import judge
from grader.paths import NOTEBOOKS, SOLUTIONS
from grader.verdict import Status
from tests import banking

SCRIPTS = NOTEBOOKS / "lab"


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(SCRIPTS, SOLUTIONS, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_rank_restarts_to_the_uninterrupted_weights(lab):
    whole = lab.train("whole", "--epochs", "2", ranks=2)
    for rank in ("0", "1"):  # the writer, and another
        killed = lab.train(
            f"killed-{rank}",
            *("--epochs", "2", "--rehearse", "KILL", rank, "41"),
            ranks=2,
            max_restarts=1,
        )
        assert [start["step"] for start in killed.starts] == [0, 40]
        assert killed.weights == whole.weights


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stopped_between_an_epoch_s_last_step_and_its_end(lab):
    """The resumed run finds no batch left of that epoch, and ends it all the same."""
    whole = lab.train("whole", "--epochs", "2", ranks=2)
    stopped = lab.train("stopped", "--epochs", "2", "--rehearse", "TERM", "1", "38", ranks=2)
    assert [start["last"] for start in stopped.starts] == [38]
    again = lab.train("stopped", "--epochs", "2", ranks=2)
    assert again.weights == whole.weights


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("options", "same"), [((), False), (("--exact",), True)])
def test_three_ranks_stopped_by_sigterm(lab, options, same):
    whole = lab.train("whole", *options, ranks=3)
    stopped = lab.train("stopped", *options, "--rehearse", "TERM", "1", "53", ranks=3)
    assert [start["last"] for start in stopped.starts] == [53]
    again = lab.train("stopped", *options, ranks=3)
    assert (again.weights == whole.weights) is same


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_ranks_become_two_and_no_sample_is_lost(lab):
    first = lab.train("run", "--rehearse", "KILL", "3", "53", ranks=4, fails=True)
    assert first is not None
    run = lab.train("run", ranks=2)
    assert "cannot be bit-identical" in run.output
    trained = run.samples(1)
    assert set(trained) == set(range(1797)), "samples were never trained on"
    assert sum(trained.values()) - 1797 <= 3, "more than the last batch's padding came again"


def _script():
    """train.py as a module, with the complete package."""
    sys.path.insert(0, str(SOLUTIONS))
    try:
        spec = importlib.util.spec_from_file_location("lab_train", SCRIPTS / "train.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(SOLUTIONS))


def test_where_a_rank_goes():
    """Only the decision is tested here: no CUDA and no NCCL was run."""
    place = _script().place
    assert place(0, 1, 2) == ("cpu", "gloo")
    assert place(1, 0, 1)[0] == "cuda:0" and "nccl" in place(1, 0, 1)[1]
    assert place(1, 1, 2) == ("cpu", "gloo"), "one GPU is not shared by two ranks"
    assert place(4, 3, 4)[0] == "cuda:3"
    assert place(4, 0, 2, "cpu") == ("cpu", "gloo")
    with pytest.raises(SystemExit, match="one rank a GPU"):
        place(1, 0, 2, "cuda")


def test_the_lab_says_what_it_runs_on(tmp_path):
    for gpus, ranks, said in ((0, 2, "gloo on the CPU"), (1, 2, "gloo"), (2, 2, "NCCL on GPUs")):
        assert said in Lab(SCRIPTS, SOLUTIONS, Path(tmp_path), gpus).told(ranks)
    assert Lab(SCRIPTS, SOLUTIONS, Path(tmp_path), 1).settings() == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "killed", "fewer"),
    [
        ("distributed", "chaff_rank0_rng_restored", "drawn", None),
        ("distributed", "chaff_optimizer_forgotten", "loaded", "loaded"),
        ("distributed", "chaff_no_warning", None, "no_warning"),
        ("distributed", "chaff_world_size_raises", None, "start"),
        ("resume", "chaff_advance_is_per_rank", "samples", "samples"),
        ("resume", "chaff_position_per_rank", None, "samples"),
        ("resume", "chaff_epoch_starts_at_zero", "samples", "samples"),
        ("distributed", "wheat_tensors", None, None),
        ("resume", "wheat_own_load", None, None),
    ],
)
def test_the_labs_checks_tell_right_from_wrong(runner, tmp_path, module, name, killed, fewer):
    """The banks of 03 and 04 serve: the lab has no module of its own."""
    entry = next(e for e in banking.entries(module) if e.name == name)
    package = banking.package(entry, tmp_path)
    for check, cause in (("killed_rank", killed), ("fewer_ranks", fewer)):
        verdict = judge(registry.checks()[f"ddp_lab.{check}"], package, runner, seed=3)
        assert verdict.hint == (cause and f"ddp_lab.{check}.{cause}"), verdict.as_text()
        assert (verdict.status is Status.PASSED) is (cause is None)
