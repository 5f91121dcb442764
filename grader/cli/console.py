"""How the command line writes: wrapped and coloured in a terminal, plain lines in a pipe.

No meaning hangs on colour: every mark is a character too. ``NO_COLOR`` and ``TERM=dumb`` turn all
escape sequences off.
"""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

import typer

COLOURS = {"✓": typer.colors.GREEN, "✗": typer.colors.RED, "!": typer.colors.YELLOW}


def is_terminal() -> bool:
    return sys.stdout.isatty()


def coloured() -> bool:
    """Whether escape sequences are welcome."""
    return is_terminal() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns of the terminal; a pipe has no width of its own, and nothing is wrapped for it."""
    return max(20, shutil.get_terminal_size((80, 24)).columns)


def say(text: str = "", *, indent: int | None = None) -> None:
    """Print ``text``; in a terminal, long lines are wrapped at words under their own indent.

    ``indent`` is where the lines that follow a wrapped one begin; without it, where the line did.
    """
    for line in text.split("\n"):
        for piece in _wrapped(line, indent) if is_terminal() else [line]:
            typer.echo(_painted(piece))


def _wrapped(line: str, indent: int | None) -> list[str]:
    columns = width()
    if len(line) <= columns:
        return [line]
    margin = len(line) - len(line.lstrip()) if indent is None else indent
    # A path or a command is worth more whole than the right margin is.
    return textwrap.wrap(
        line,
        columns,
        subsequent_indent=" " * min(margin, columns // 2),
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    ) or [""]


def _painted(line: str) -> str:
    mark = line.lstrip()[:1]
    if mark in COLOURS and coloured():
        return typer.style(line, fg=COLOURS[mark])
    return line


def bar(part: float, whole: float, cells: int = 12) -> str:
    """``█████░░░░░░░``; full only when all of it is done, empty only when nothing is."""
    filled = int(cells * part / whole) if whole else 0
    if part and not filled:
        filled = 1
    return "█" * filled + "░" * (cells - filled)


def confirm(question: str) -> bool:
    """Ask at the terminal; False at an end of input, or for anything but yes."""
    try:
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
