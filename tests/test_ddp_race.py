"""Incident 03, beyond its bank: many saves, real torchrun, nothing left behind."""

from __future__ import annotations

import json
import subprocess

import pytest
from workbench.launch import torchrun

from grader import registry
from grader.client import SpawnWorkers
from grader.judge import judge
from grader.paths import SOLUTIONS
from grader.torchrun import TorchrunRanks
from grader.verdict import Status
from tests import banking


def _replay(runner, probe, ranks, **args):
    request = {
        "probe": f"ddp_race_replay.{probe}",
        "args": args,
        "savepoint": str(SOLUTIONS),
        "world_size": ranks,
        "seconds": 200,
        "memory": 4 << 30,
    }
    reports = runner.run(request, {})
    assert all(report.outcome == "ok" for report in reports), reports[0].details
    return reports[0].facts


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_none_of_200_saves_is_corrupt(runner, ranks):
    facts = _replay(runner, "race", ranks, saves=200)
    # Every rank opens every file, as soon as its own call has returned.
    assert facts["outcomes"] == {"loads: rank 0's file": 200 * ranks}
    assert facts["left"] == ["run.pt"]
    assert [bool(spans) for spans in facts["timeline"]] == [True] + [False] * (ranks - 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "cure", "same"),
    [(2, "", True), (3, "", False), (3, "unused", True), (3, "warm", True), (4, "unused", True)],
)
def test_resume_is_bit_identical_at_two_ranks_and_with_a_cure_at_three(runner, ranks, cure, same):
    facts = _replay(runner, "resume", ranks, cure=cure)
    assert (facts["uninterrupted"] == facts["resumed"]) is same
    assert facts["largest difference"] < 1e-6


@pytest.mark.slow
def test_the_race_corrupts_and_its_control_does_not(tmp_path):
    out = tmp_path / "two.json"
    run = torchrun("-m", "workbench.race", str(out), "race", "equal", "swallowed", nproc=2)
    assert run.returncode == 0, run.output
    measured = json.loads(out.read_text())
    assert sum(measured["race"]["outcomes"].values()) == 20
    assert any("does not load" in outcome for outcome in measured["race"]["outcomes"])
    assert not any("does not load" in outcome for outcome in measured["equal"]["outcomes"])
    _, told_rank_1 = measured["swallowed"]["told to all"]
    assert "Parent directory" in told_rank_1["saw"] and told_rank_1["seconds"] < 1
    assert [path.name for path in tmp_path.iterdir()] == ["two.json"]


@pytest.mark.slow
def test_torchrun_leaves_no_process_behind(tmp_path):
    script = tmp_path / "waits_for_ever.py"
    script.write_text("import time\ntime.sleep(600)\n")
    assert torchrun(str(script), nproc=2, timeout=15).returncode is None
    alive = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True).stdout
    assert str(script) not in alive


# Every check that needs several ranks, and a chaff that it rejects.
SEVERAL_RANKS = {
    "one_writer": "chaff_every_rank_writes",
    "failing_writer": "chaff_error_on_rank0_only",
    "in_all_else": "chaff_no_parents",
    "same_bits": "chaff_rank0_rng_restored",
    "one_answer": "chaff_exists_lost",
    "other_world_size": "chaff_no_warning",
    "fine_print": "chaff_returns_everything",
}


class _Spy:
    """Remembers how many ranks were asked for."""

    def __init__(self, runner):
        self.runner, self.ranks = runner, set()

    def run(self, request, blobs):
        if not request.get("independent"):
            self.ranks.add(request.get("world_size", 1))
        return self.runner.run(request, blobs)


@pytest.mark.slow
def test_the_checks_of_several_ranks_are_these(runner):
    several = set()
    for check in registry.select("ddp_race"):
        if check.kind != "prediction":
            spy = _Spy(runner)
            judge(check, SOLUTIONS, spy, trusted_runner=runner, seed=4)
            several |= {check.id.split(".")[1]} if max(spy.ranks, default=1) > 1 else set()
    assert several == set(SEVERAL_RANKS)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "chaff"), SEVERAL_RANKS.items())
def test_real_torchrun_gives_the_same_verdicts(runner, tmp_path, name, chaff):
    """The bank's own test says the same of forked ranks."""
    check, ranks = registry.checks()[f"ddp_race.{name}"], TorchrunRanks(runner)
    right = judge(check, SOLUTIONS, ranks, trusted_runner=runner, seed=4)
    assert right.status is Status.PASSED, right.as_text()
    entry = next(e for e in banking.entries("distributed") if e.name == chaff)
    wrong = judge(check, banking.package(entry, tmp_path), ranks, trusted_runner=runner, seed=4)
    assert wrong.hint == banking.expected("distributed")["chaffs"][chaff][check.id], wrong.as_text()


@pytest.mark.slow
def test_spawned_workers_can_be_ranks():
    workers = SpawnWorkers(standby=2)
    try:
        for name in ("one_writer", "same_bits", "old_or_new"):
            verdict = judge(registry.checks()[f"ddp_race.{name}"], SOLUTIONS, workers, seed=4)
            assert verdict.status is Status.PASSED, verdict.as_text()
    finally:
        workers.close()
