"""Shared by the tests: one warm server a worker, and no silent skips in CI."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from grader.client import ForkServer, Runner

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def runner() -> Runner:
    server = ForkServer()
    yield server
    server.close()


def need(program: str) -> str:
    """The path of a system program; without it the test is skipped, and in CI it fails."""
    found = shutil.which(program)
    if not found:
        why = f"{program} is not installed (tests/install_system.sh says how)"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found
