"""JupyterLab in Debian's chromium, as the browser tests drive it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SHOTS = os.environ.get("BIT_FOR_BIT_SHOTS")  # a directory for screenshots, to look at
BIN = Path(sys.executable).parent


@contextlib.contextmanager
def lab(directory: Path, scratch: Path) -> Iterator[str]:
    """JupyterLab with ``directory`` as its root; its URL. Settings and logs go to ``scratch``."""
    settings = scratch / "settings" / "@jupyterlab"
    (settings / "notebook-extension").mkdir(parents=True)
    (settings / "apputils-extension").mkdir()
    # All cells in the page, so that a test finds them without scrolling.
    (settings / "notebook-extension" / "tracker.jupyterlab-settings").write_text(
        json.dumps({"windowingMode": "none"})
    )
    # No question whether to fetch news: nothing here reaches a network.
    (settings / "apputils-extension" / "notification.jupyterlab-settings").write_text(
        json.dumps({"fetchNews": "false", "checkForUpdates": False})
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = scratch / "lab.log"
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *(f"--port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"),
            *("--IdentityProvider.token=", f"--ServerApp.root_dir={directory}"),
        ],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",  # nbgrader calls alembic by name
            "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
            "JUPYTER_CONFIG_DIR": str(scratch / "config"),
        },
        stdout=subprocess.DEVNULL,
        stderr=log.open("w"),
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/api", timeout=2)
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.5)
        yield url
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def shoot(page: Any, name: str, *, narrow: bool = False) -> None:
    """A screenshot for people, where they asked for one."""
    if not SHOTS:
        return
    page.screenshot(path=f"{SHOTS}/{name}.png")
    if narrow:
        page.set_viewport_size({"width": 480, "height": 900})
        page.keyboard.press("Control+b")  # the files panel away, as anybody would
        page.wait_for_timeout(700)
        page.screenshot(path=f"{SHOTS}/{name}_narrow.png")
        page.keyboard.press("Control+b")
        page.set_viewport_size({"width": 1280, "height": 900})


def open_notebook(page: Any, url: str, name: str) -> None:
    """Open a notebook, and wait for its kernel."""
    page.goto(f"{url}/lab/tree/{name}")
    page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
    wait_idle(page)


def wait_idle(page: Any) -> None:
    page.locator("text=/Python 3 .* Idle/").first.wait_for()


def code_cell(page: Any, source: str) -> Any:
    """The first code cell whose source contains ``source``."""
    return page.locator(".jp-CodeCell", has=page.locator(".cm-content", has_text=source)).first


def finished(page: Any, cell: Any, seconds: float = 90) -> str:
    """The text of a cell's output, once the cell has its number."""
    prompt = cell.locator(".jp-InputPrompt").first
    deadline = time.monotonic() + seconds
    while not re.search(r"\[\d+\]", prompt.inner_text()):
        if time.monotonic() > deadline:
            shoot(page, "stuck")
            raise AssertionError("the cell did not finish")
        page.wait_for_timeout(200)
    return cell.locator(".jp-OutputArea").first.inner_text()


def run(page: Any, cell: Any) -> str:
    """Run one cell; the text of its output."""
    cell.locator(".cm-content").first.click()
    page.keyboard.press("Control+Enter")
    page.wait_for_timeout(300)
    return finished(page, cell)


def rewrite(page: Any, cell: Any, source: str) -> None:
    """Replace a cell's source, by the keyboard."""
    cell.locator(".cm-content").first.click()
    page.keyboard.press("Control+a")
    page.keyboard.type(source)


def menu(page: Any, bar: str, entry: str) -> None:
    """Choose an entry of the menu bar."""
    page.locator(".lm-MenuBar-item", has_text=re.compile(f"^{bar}$")).click()
    page.locator(".lm-Menu-item", has_text=re.compile(f"^{entry}")).first.click()
