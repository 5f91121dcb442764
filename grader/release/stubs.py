"""Modules with their solutions taken out.

A region inside a function becomes ``raise NotImplementedError("<its label>")``; one at module
level (the solution's own helpers) goes whole. Everything else stays as it is, to the byte.
"""

from __future__ import annotations

import json
import re

BEGIN = re.compile(r"^(?P<indent>\s*)### BEGIN SOLUTION(?:: (?P<label>.+))?\s*$")
END = re.compile(r"^\s*### END SOLUTION\s*$")
ANY_MARK = re.compile(r"(BEGIN|END) (SOLUTION|HIDDEN TESTS)")


class StubError(Exception):
    """A module's solution regions are not well formed."""


def stub(source: str, name: str = "module") -> str:
    """``source`` without its solutions. Idempotent. Raises StubError rather than leak."""
    kept: list[str] = []
    for inside, line, _ in _walk(source, name):
        if inside is None:
            kept.append(line)
        elif (found := BEGIN.match(line)) and found["indent"]:
            if not found["label"]:
                raise StubError(f'{name}: "{line.strip()}" needs a label: what is to be done here')
            kept.append(f"{found['indent']}raise NotImplementedError({json.dumps(found['label'])})")
    text = re.sub(r"\n{4,}", "\n\n\n", "\n".join(kept)).rstrip("\n") + "\n"
    if mark := ANY_MARK.search(text):
        raise StubError(f"{name}: a stray {mark[0]!r} would be released")
    return text


def solution_lines(source: str, name: str = "module") -> set[str]:
    """The stripped lines inside solution regions, markers left out."""
    return {
        line.strip()
        for inside, line, is_mark in _walk(source, name)
        if inside is not None and not is_mark and line.strip()
    }


def _walk(source: str, name: str):
    """Yield (region's number or None, line, whether it is a marker) for each line."""
    inside: int | None = None
    count = 0
    for number, line in enumerate(source.splitlines(), start=1):
        if BEGIN.match(line):
            if inside is not None:
                raise StubError(f"{name}, line {number}: a solution begins inside a solution")
            inside, count = count, count + 1
            yield inside, line, True
        elif END.match(line):
            if inside is None:
                raise StubError(f"{name}, line {number}: a solution ends that never began")
            yield inside, line, True
            inside = None
        else:
            yield inside, line, False
    if inside is not None:
        raise StubError(f"{name}: a solution never ends")
