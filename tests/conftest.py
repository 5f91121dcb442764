"""Shared by the tests: one warm server a worker, and no silent skips in CI."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from grader import jail_tier, lighter
from grader.client import ForkServer, Runner

# Several processes with several threads share the cores: a thread that waits must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

lighter.skip_iri_grammar()

ROOT = Path(__file__).resolve().parent.parent
# The command `course`, whether or not it is on the path.
COURSE = [sys.executable, "-c", "from grader.cli import main; main()"]


# A module whose tests look at one class or one release, made once: all on one worker.
TOGETHER = ("test_classroom", "test_grade", "test_release", "test_browser_instructor")


class OneByOne(LoadScopeScheduling):
    """To whoever is free, in order, each test alone or with its module's others.

    (xdist's own ``loadgroup`` groups nothing under pytest 9.2, xdist 3.8.)
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.split("::")[0]
        return module if Path(module).stem in TOGETHER else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneByOne:
    return OneByOne(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first and the bank's many short ones last: no worker waits for the other's.

    Attacks on the machine go late: not beside a notebook's lab with its own processes and times.
    """
    order = {"test_classroom": 0, "test_grade": 1, "test_notebooks": 2}
    order |= {"test_attacks": 4, "test_bank": 5}
    items.sort(key=lambda item: order.get(item.path.stem, 3))


@pytest.fixture(scope="session")
def runner() -> Runner:
    server = ForkServer()
    yield server
    server.close()


def need(program: str) -> str:
    """The path of a system program; without it the test is skipped, and in CI it fails."""
    found = shutil.which(program)
    if not found:
        _go_without(f"{program} is not installed (tests/install_system.sh says how)")
    return str(found)


def need_jail() -> None:
    """The full jail; without it the test is skipped, and in CI it fails."""
    if not jail_tier.find().full:
        _go_without(f"no full jail here: {jail_tier.find().missing}")


def _go_without(why: str) -> None:
    pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)


@pytest.fixture
def page() -> Any:
    """A page in a headless chromium."""
    chromium = need("chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(90_000)
        yield page
        browser.close()


def pytest_terminal_summary(terminalreporter) -> None:
    """Print the bank's matrix: for each check, how many wheats passed and chaffs were rejected."""
    rows: dict[tuple[str, str], list[int]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", "") != "call":
                continue
            for name, value in report.user_properties:
                if name == "bank":
                    module, check, is_wheat, passed = value
                    counts = rows.setdefault((module, check), [0, 0, 0, 0])
                    counts[0 if is_wheat else 2] += passed == is_wheat
                    counts[1 if is_wheat else 3] += passed != is_wheat
    if not rows:
        return
    terminalreporter.section("the bank: right and wrong implementations against every check")
    line = "{:14} {:34} {:>8} {:>14} {:>8} {:>14}"
    header = ("module", "check", "wheats", "false rejects", "chaffs", "false accepts")
    terminalreporter.write_line(line.format(*header))
    for (module, check), (passed, rejects, rejected, accepts) in sorted(rows.items()):
        counts = (passed + rejects, rejects, rejected + accepts, accepts)
        terminalreporter.write_line(line.format(module, check, *counts))
