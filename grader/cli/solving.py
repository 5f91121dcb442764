"""``course solution``: the reference's code for one check, once it has passed or on request."""

from __future__ import annotations

import re

from grader import hints, paths, registry, remembered
from grader.cli import excerpt
from grader.cli.console import coloured, is_terminal, say
from grader.registry import Check


def show(check_id: str, *, anyway: bool) -> bool:
    """Print the regions of the reference; False if the check has not passed. Raises UnknownName."""
    check = _find(check_id)
    if check.kind == "prediction":
        say(f"{check.id} has no right answer to copy: committing to one is what earns the point.")
        return True
    if not anyway and not _passes(check):
        seen = hints.seen(check.id)
        say(f"{check.id} has not passed on your files as they are now.")
        if seen < len(check.hints):
            say(f"You have seen {seen} of its {len(check.hints)} hints: course hint {check.id}")
        say(f"To read the reference's code all the same: course solution {check.id} --anyway")
        return False
    code = excerpt.of(check)
    if not code:
        notebook = registry.incidents()[check.incident].notebook
        say(f"{check.id} asks for nothing in savepoint/; solutions/{notebook}.ipynb shows it done.")
        return True
    if coloured():
        from rich.console import Console
        from rich.syntax import Syntax

        Console().print(Syntax(code, "python", theme="ansi_dark", background_color="default"))
    else:
        print(code)  # as it is, so that it can be piped into a file
    if is_terminal():
        say("\nOne way of several: the checks ask what it does, not how.")
    return True


def _find(check_id: str) -> Check:
    """A check by its id, or by a hint code that begins with it."""
    if check_id in registry.checks():
        return registry.checks()[check_id]
    try:
        return registry.find_hint(check_id)[0]
    except registry.UnknownName:
        number = re.fullmatch(r"\d+|\w+", check_id) and registry.select(check_id)
        if number:
            raise registry.UnknownName(
                f"Which of its checks? {', '.join(c.id for c in number if c.kind != 'prediction')}"
            ) from None
        raise registry.UnknownName(
            f"There is no check {check_id!r}. `course check --list` shows them all."
        ) from None


def _passes(check: Check) -> bool:
    try:
        chapters = remembered.standings(paths.package_root())
    except paths.NoPackage:
        return False
    return any(s.passed for chapter in chapters for s in chapter.standings if s.check == check)
