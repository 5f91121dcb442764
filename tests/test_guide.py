"""The facilitator's guide: its timetables come from the notebooks' cards, and fit their names."""

from __future__ import annotations

import re

from grader import registry
from grader.release import timetable

LIMITS = {"90 minutes": 90, "half a day": 210, "a day": 480}


def test_every_plan_fits_what_it_is_called():
    plans = timetable.plans()
    assert set(plans) == set(LIMITS)
    for name, plan in plans.items():
        assert plan.minutes <= LIMITS[name], (name, plan.minutes)


def test_a_notebook_s_minutes_are_its_own():
    first = registry.incidents()["lr_reset"]
    lines = dict(timetable.plans()["90 minutes"].lines)
    assert lines[f"**01** {first.title}"] == first.minutes


def test_the_guide_holds_every_plan_once_and_is_up_to_date():
    text = timetable.GUIDE.read_text(encoding="utf-8")
    assert [m["name"] for m in timetable.BLOCK.finditer(text)] == list(LIMITS)
    assert timetable.fill(text) == text
    # A table that somebody edited by hand is noticed.
    assert timetable.fill(re.sub(r"\| 60 \|", "| 45 |", text)) == text


def test_half_a_day_is_the_curriculum_s():
    text = timetable.as_markdown(timetable.plans()["half a day"])
    assert re.findall(r"\*\*(\d\d)\*\*", text) == ["01", "03", "04"]
    assert "Demonstration of 07" in text
