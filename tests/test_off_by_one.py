"""Incident 04: what the bank and the generic tests do not cover."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from grader import registry
from grader.checks.off_by_one_kills import run_all
from grader.checks.off_by_one_plans import PER_EPOCH, PER_STEP, Plan, draw_plan
from grader.judge import Trial
from grader.paths import SOLUTIONS

PEERS = Path(__file__).with_name("peers_resume.py")


def trial(runner, seed: int) -> Trial:
    return Trial(registry.checks()["off_by_one.any_step"], SOLUTIONS, seed, runner)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_hundred_random_kill_points(runner):
    """25 runs, four kills each, every schedule: the solution never differs by a bit."""
    drawn = trial(runner, seed=404)
    schedules = [*PER_STEP, *PER_EPOCH]
    kills = 0
    for first in range(0, 25, 5):
        plans = {
            f"run {number}": draw_plan(drawn, schedules[number % len(schedules)], 4)
            for number in range(first, first + 5)
        }
        run_all(drawn, plans)  # raises Wrong at the first difference
        kills += sum(len(plan.kills) for plan in plans.values())
    assert kills == 100


def test_the_named_moments_are_what_they_say(runner):
    drawn = trial(runner, seed=1)
    for _ in range(50):
        plan = draw_plan(drawn, "cosine", ["first step", "last step"])
        first, last = plan.kills
        assert plan.at(first) == (0, 1, 1)
        assert plan.at(last)[2] == plan.epochs * plan.batches
        plan = draw_plan(drawn, "step", ["last batch of an epoch", "epoch boundary"])
        places = [plan.at(kill)[1] for kill in plan.kills]
        assert 0 in places and plan.batches in places
        assert plan.length % plan.batch_size != 1, "batch norm cannot train on one sample"


def test_a_run_goes_on_from_its_last_save():
    numbers = {"length": 10, "batch_size": 2, "epochs": 2, "save_every": 2, "seed": 0}
    plan = Plan("step", "sgd", kills=[1, 4, 5, 6, 7], sampler_seed=0, other_seed=0, **numbers)
    # 5 batches an epoch: events 1 to 5 are steps, 6 is the epoch's end, 7 is step 6. Saved after
    # steps 2, 4 and 6, and at the epoch's end.
    assert plan.starts == [0, 4, 4, 6, 7]
    assert [plan.at(event) for event in plan.kills] == [
        (0, 1, 1),
        (0, 4, 4),
        (0, 5, 5),
        (1, 0, 5),
        (1, 1, 6),
    ]


def test_draws_differ_between_seeds_and_repeat_with_one(runner):
    def kills(seed):
        drawn = trial(runner, seed)
        return [draw_plan(drawn, "cosine", 3).kills for _ in range(8)]

    assert kills(1) == kills(1)
    assert kills(1) != kills(2)
    assert len({kill for run in kills(3) for kill in run}) > 8


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_peers_script_says_what_is_not_installed():
    done = subprocess.run(
        [sys.executable, str(PEERS), "plain_own_generator", "lightning"],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "identical" in done.stdout
    assert "lightning" in done.stdout
