"""``course progress``: where each notebook stands, from the remembered verdicts. Runs nothing."""

from __future__ import annotations

from grader import paths, remembered
from grader.cli.console import bar, is_terminal, say, width
from grader.remembered import Chapter


def show() -> None:
    """A bar a notebook, points, minutes left."""
    chapters = remembered.standings(paths.package_root())
    for chapter in chapters:
        say(_line(chapter))
    graded = [c for c in chapters if c.max_points]
    points, possible = sum(c.points for c in graded), sum(c.max_points for c in graded)
    minutes = sum(c.minutes_left for c in chapters)
    say(f"\n{points:g} of {possible:g} points, {_time(minutes)} left.")
    written = sum(c.incident.written_points for c in chapters)
    say(f"The written root causes are read by a person: {written:g} points more.")
    if stale := sum(c.stale for c in chapters):
        say(f"{stale} verdict(s) are older than your files. `course check` brings them up to date.")


def _line(chapter: Chapter) -> str:
    incident = chapter.incident
    if chapter.max_points:
        done, whole, unit = chapter.points, chapter.max_points, "points"
    else:
        done = sum(s.passed for s in chapter.required)
        whole, unit = len(chapter.required), "checks"
    mark = "✓" if chapter.done else "·"
    left = "done" if chapter.done else f"{chapter.minutes_left} min left"
    score = f"{done:g}/{whole:g} {unit}"
    again = f", {chapter.stale} to check again" if chapter.stale else ""
    if is_terminal() and width() < 70:
        return f"{mark} {incident.notebook}\n  {bar(done, whole)} {score}\n  {left}{again}"
    return f"{mark} {incident.notebook:20} {bar(done, whole)}  {score:13}  {left}{again}"


def _time(minutes: int) -> str:
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest:02} min" if hours else f"{rest} min"


def checklist() -> None:
    """Every incident's line for the learner's own repository; ticked where its checks pass."""
    say("What a training program that keeps the promise can say of itself:\n")
    for chapter in remembered.standings(paths.package_root()):
        say(f"- [{'x' if chapter.done else ' '}] {chapter.incident.checklist}", indent=6)
    say("\nTicked: your package passes that notebook's checks. Yours is the rest.")
