"""Wheats pass, chaffs draw their verdict: 0 false rejects, 0 false accepts."""

from __future__ import annotations

import os

import pytest

from grader import registry
from grader.jail_runner import Remembering
from grader.judge import judge
from grader.verdict import Status
from tests import banking

SEED = int(os.environ.get("BANK_SEED", "20260"))  # another seed, other draws: make soak
SLOW = [pytest.mark.slow]
QUICK = ("wheat_terse",)  # of each module one, while working; `-k` picks a module's others
ENTRIES = [
    pytest.param(entry, id=f"{module}-{entry.name}", marks=[] if entry.name in QUICK else SLOW)
    for module in banking.modules()
    for entry in banking.entries(module)
]


def _checks(entry: banking.Entry) -> list[registry.Check]:
    plan = banking.expected(entry.module)
    if entry.is_wheat:
        skipped = plan["skips"].get(entry.name, [])
        return [
            check
            for name in plan["checks"]
            for check in registry.select(name)
            if check.kind != "prediction" and check.id not in skipped
        ]
    return [registry.checks()[check] for check in plan["chaffs"].get(entry.name, {})]


@pytest.fixture(scope="module")
def trusted(runner):
    """With one seed, every entry asks the trusted side the same questions: as in a class."""
    return Remembering(runner)


@pytest.mark.parametrize("entry", ENTRIES)
def test_verdict(entry, runner, trusted, tmp_path, record_property):
    package = banking.package(entry, tmp_path)
    checks = _checks(entry)
    assert checks, f"expected.toml of {entry.module} says nothing about {entry.name}"
    for check in checks:
        verdict = judge(check, package, runner, trusted_runner=trusted, seed=SEED)
        passed = verdict.status is Status.PASSED
        record_property("bank", [entry.module, check.id, entry.is_wheat, passed])
        if entry.is_wheat:
            assert verdict.status is Status.PASSED, verdict.as_text()
        else:
            assert verdict.status is not Status.PASSED, f"false accept: {check.id}"
            assert verdict.status is not Status.GRADER_FAULT, verdict.as_text()
            codes = banking.expected(entry.module)["chaffs"][entry.name][check.id]
            # A list, where it depends on the draw which of its faults comes first.
            assert verdict.hint in ([codes] if isinstance(codes, str) else codes), verdict.as_text()


@pytest.mark.parametrize("module", banking.modules())
def test_every_entry_is_accounted_for(module):
    plan = banking.expected(module)
    there = {entry.name for entry in banking.entries(module)}
    chaffs = {name for name in there if name.startswith("chaff_")}
    assert chaffs == set(plan["chaffs"]), "expected.toml and the bank's chaffs differ"
    assert set(plan["skips"]) <= there
    for checks in plan["skips"].values():
        assert set(checks) <= set(plan["further"]), "a core task cannot be left out"


@pytest.mark.parametrize("module", banking.modules())
def test_every_core_check_has_enough_chaffs(module):
    plan = banking.expected(module)
    wheats = [entry for entry in banking.entries(module) if entry.is_wheat]
    assert len(wheats) >= 3
    assert len(plan["chaffs"]) >= 6
