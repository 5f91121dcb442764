"""A learner in JupyterLab, in a real browser: fill in a stub, and the check turns, kernel alive."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from grader.paths import SOLUTIONS
from tests.conftest import need

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(400)]
SHOTS = os.environ.get("BIT_FOR_BIT_SHOTS")  # a directory for screenshots, to look at


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a learner's fresh copy; (URL, the copy)."""
    work = tmp_path / "work"
    command = "from grader.cli import main; main()"
    subprocess.run([sys.executable, "-c", command, "start", work], check=True, timeout=120)
    settings = tmp_path / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True)
    # All cells in the page, so that the test finds them without scrolling.
    (settings / "tracker.jupyterlab-settings").write_text(json.dumps({"windowingMode": "none"}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *(f"--port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"),
            *("--IdentityProvider.token=", f"--ServerApp.root_dir={work}"),
        ],
        env={
            **os.environ,
            "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
            "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        },
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "lab.log").open("w"),
    )
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(120):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/api", timeout=2)
                break
            assert server.poll() is None, (tmp_path / "lab.log").read_text()
            time.sleep(0.5)
        yield url, work
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture
def page(tmp_path):
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
        page.set_default_timeout(60_000)
        yield page
        browser.close()


def shoot(page, name):
    if SHOTS:
        page.screenshot(path=f"{SHOTS}/{name}.png")


def code_cell(page, source):
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=source)).first


def run(page, cell):
    """Run one cell and return its output's text, once the cell has its number."""
    cell.locator(".cm-content").first.click()
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(300)
    prompt = cell.locator(".jp-InputPrompt").first
    deadline = time.monotonic() + 60
    while not re.search(r"\[\d+\]", prompt.inner_text()):
        if time.monotonic() > deadline:
            shoot(page, "stuck")
            raise AssertionError("the cell did not finish")
        page.wait_for_timeout(200)
    return cell.locator(".jp-OutputArea").first.inner_text()


def test_a_check_turns_without_a_restart(lab, page):
    url, work = lab
    page.goto(f"{url}/lab/tree/01_lr_reset.ipynb")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    with contextlib.suppress(Exception):  # a news prompt, on some versions
        page.get_by_role("button", name="No", exact=True).click(timeout=3000)
    page.locator("text=/Python 3 .* Idle/").first.wait_for()
    run(page, code_cell(page, "from grader import"))
    shoot(page, "1_card")

    check = code_cell(page, 'check("lr_reset.rng")')
    untouched = run(page, check)
    assert "not implemented" in untouched and "Not yet: 01_lr_reset, task 1" in untouched
    shoot(page, "2_not_implemented")

    module = work / "savepoint" / "checkpoint.py"
    right = (SOLUTIONS / "savepoint" / "checkpoint.py").read_text()
    module.write_text(right.replace("pos, has_gauss, cached_gaussian),", "pos, 0, 0.0),"))
    wrong = run(page, check)
    assert "✗ lr_reset.rng" in wrong and "cached Gaussian" in wrong, wrong
    shoot(page, "3_wrong")

    shutil.copy(SOLUTIONS / "savepoint" / "checkpoint.py", module)
    passed = run(page, check)
    assert "✓ lr_reset.rng" in passed and "3/3" in passed, passed
    shoot(page, "4_passed")

    # The kernel is the one that ran the first cell: its names are still there.
    assert "4 for the written root cause" in run(page, code_cell(page, "from grader import"))
