"""A learner in JupyterLab, in a real browser: from the stub to every point, kernel alive."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from grader import registry
from grader.paths import SOLUTIONS
from tests import browsing
from tests.browsing import code_cell, run, shoot
from tests.conftest import COURSE

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(900)]


def course(*arguments):
    return subprocess.run(
        [*COURSE, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def lab(tmp_path):
    """JupyterLab on a learner's fresh copy; (URL, the copy)."""
    work = tmp_path / "work"
    assert course("start", work).returncode == 0
    with browsing.lab(work, tmp_path) as url:
        yield url, work


def validate(page):
    """nbgrader's Validate button; what its dialog says. It runs the notebook in a fresh kernel."""
    page.locator(".validate-button").first.click()
    dialog = page.locator(".jp-Dialog")
    for _ in range(3):  # it may first ask to save
        dialog.wait_for(timeout=240_000)
        text = dialog.inner_text()
        if re.search(r"(?i)unsaved|save", text.splitlines()[0]):
            dialog.locator("button").last.click()
            dialog.wait_for(state="detached")
            continue
        break
    shoot(page, "validate_" + re.sub(r"\W+", "_", text.splitlines()[0])[:30])
    dialog.locator("button").last.click()
    return text


def test_a_learner_s_whole_path_through_01(lab, page):
    url, work = lab
    browsing.open_notebook(page, url, "01_lr_reset.ipynb")
    run(page, code_cell(page, "from grader import"))
    shoot(page, "1_card", narrow=True)

    # Nothing is written yet: a message, and in the same words a failed validation.
    check = code_cell(page, 'check("lr_reset.rng")')
    untouched = run(page, check)
    assert "not implemented" in untouched and "Not yet: 01_lr_reset, task 1" in untouched
    shoot(page, "2_not_implemented", narrow=True)

    answer = code_cell(page, "prediction = ")
    browsing.rewrite(page, answer, 'prediction = "b"')
    run(page, answer)
    assert "1/1" in run(page, code_cell(page, 'check("lr_reset.prediction"'))

    module = work / "savepoint" / "checkpoint.py"
    right = (SOLUTIONS / "savepoint" / "checkpoint.py").read_text()
    module.write_text(right.replace("pos, has_gauss, cached_gaussian),", "pos, 0, 0.0),"))
    wrong = run(page, check)
    assert "✗ lr_reset.rng" in wrong and "cached Gaussian" in wrong, wrong
    shoot(page, "3_wrong", narrow=True)

    shutil.copy(SOLUTIONS / "savepoint" / "checkpoint.py", module)
    passed = run(page, check)
    assert "✓ lr_reset.rng" in passed and "3/3" in passed, passed
    shoot(page, "4_passed")
    # The kernel is the one that ran the first cell: its names are still there.
    assert "4 for the written root cause" in run(page, code_cell(page, "from grader import"))

    browsing.menu(page, "Run", "Run All Cells")
    last = page.locator(".jp-CodeCell").last
    browsing.finished(page, last, seconds=240)
    for found in registry.incidents()["lr_reset"].checks:
        if found.kind == "prediction" or found.hidden:
            continue
        text = browsing.finished(page, code_cell(page, f'check("{found.id}"'))
        assert f"✓ {found.id}" in text, text
    pictures = page.locator(".jp-OutputArea img")
    assert pictures.count() >= 3
    assert all(len(pictures.nth(i).get_attribute("alt")) > 40 for i in range(pictures.count()))
    assert page.locator(".jp-OutputArea", has_text="Traceback").count() == 0
    code_cell(page, "resume_figure(yours").scroll_into_view_if_needed()
    shoot(page, "5_replayed", narrow=True)

    # The written root cause: Validate asks for it, and a person will mark it.
    cause = page.locator(".jp-MarkdownCell", has_text="Write here.").first
    cause.dblclick()
    browsing.rewrite(page, cause, "The new optimizer began with the first rate and no moments.")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("Control+s")
    page.wait_for_timeout(2000)
    said = validate(page)
    assert "passes all the tests" in said, said
    whole = course("check", "01", "--savepoint", work)
    assert whole.returncode == 0 and "16 of 16 points" in whole.stdout, whole.stdout


def test_validate_on_the_stub_names_what_is_to_do(lab, page):
    url, _ = lab
    browsing.open_notebook(page, url, "01_lr_reset.ipynb")
    said = validate(page)
    assert "failed" in said.lower(), said
    assert 'check("lr_reset.rng")' in said and "Traceback" not in said, said
