"""Every check: passes on the reference, fails on the stub with its own message, on both runners."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from grader import registry
from grader.client import SpawnWorkers
from grader.judge import judge, load_checks
from grader.paths import NOTEBOOKS, ROOT, SOLUTIONS
from grader.verdict import Status

CHECKS = [check for check in registry.checks().values() if check.kind != "prediction"]
SEED = 4


def test_every_check_has_a_function_and_three_hints():
    decided = set(load_checks())
    for check in registry.checks().values():
        assert check.kind == "prediction" or check.id in decided
        assert len(check.hints) == 3 and all(len(hint) > 20 for hint in check.hints)
    assert decided <= set(registry.checks())


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_reference_passes(check, runner):
    verdict = judge(check, SOLUTIONS, runner, seed=SEED)
    assert verdict.status is Status.PASSED, verdict.as_text()
    assert verdict.points == check.points


@pytest.mark.parametrize("check", CHECKS, ids=lambda c: c.id)
def test_stub_is_not_implemented(check, runner):
    verdict = judge(check, NOTEBOOKS, runner, seed=SEED)
    assert verdict.status is Status.NOT_IMPLEMENTED, verdict.as_text()
    assert verdict.points == 0
    # The lab has no module of its own: what is not there yet is an earlier notebook's.
    all_of_them = registry.incidents().values()
    mine = registry.incidents()[check.incident]
    notebooks = [i.notebook for i in (all_of_them if not mine.modules else [mine])]
    assert any(notebook in verdict.message for notebook in notebooks)
    assert check.title[1:] in verdict.message


def test_stub_messages_differ():
    titles = [(check.incident, check.title) for check in registry.checks().values()]
    assert len(set(titles)) == len(titles)


@pytest.mark.slow
def test_spawned_workers_give_the_same_verdicts(runner):
    workers = SpawnWorkers(standby=2)
    try:
        for name in ("start_here.same_bits", "lr_reset.rng", "lr_reset.momentum"):
            for package in (SOLUTIONS, NOTEBOOKS):
                there = judge(registry.checks()[name], package, runner, seed=SEED)
                here = judge(registry.checks()[name], package, workers, seed=SEED)
                assert (here.status, here.message) == (there.status, there.message)
    finally:
        workers.close()


def test_a_seed_repeats_its_draws(runner):
    check = registry.checks()["lr_reset.learning_rate"]
    first, again, other = (judge(check, SOLUTIONS, runner, seed=s).message for s in (7, 7, 8))
    assert first == again
    assert len({judge(check, SOLUTIONS, runner, seed=s).message for s in range(5)}) > 1
    assert other


def test_checks_and_probes_never_import_the_solutions():
    for path in [*ROOT.glob("grader/checks/*.py"), *ROOT.glob("grader/probes/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])]
            modules = [*names, getattr(node, "module", None) or ""]
            assert not any(m.split(".")[0] in ("solutions", "savepoint") for m in modules), path
        assert "solutions" not in path.read_text()


def test_workbench_knows_nobody_and_savepoint_only_torch():
    def roots(path: Path) -> set[str]:
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
        return found

    for path in ROOT.glob("notebooks/workbench/*.py"):
        assert not roots(path) & {"grader", "savepoint"}, path
    for path in ROOT.glob("solutions/savepoint/*.py"):
        assert not roots(path) & {"grader", "workbench", "sklearn", "matplotlib"}, path


LIGHTER = """
import inspect, sys, torch
from grader import lighter, server
server.warm()
inspect.stack(), inspect.getmodule(torch.save)
part = "torch._dynamo.eval_frame"
assert part not in sys.modules, "the server imported the compiler"
twice = torch.compile(lambda x: 2 * x, backend="eager")
assert twice(torch.ones(2)).tolist() == [2, 2] and part in sys.modules
weight = torch.ones(2, requires_grad=True)
optimizer = torch.optim.SGD([weight], lr=0.5)
weight.sum().backward()
optimizer.step()
assert weight.tolist() == [0.5, 0.5]
lighter.load_compiler()
"""


def test_the_compiler_is_imported_once_something_compiles():
    subprocess.run([sys.executable, "-c", LIGHTER], check=True, timeout=120)
