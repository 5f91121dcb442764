"""A submitted notebook, made whole: the released one with the learner's answers in it.

Of what was handed in, the text of the cells that are the learner's to write is used, by grade_id,
and nothing else: duplicated, deleted, edited or invalid cells and metadata do not reach nbgrader.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

MAX_ANSWER = 64 << 10
# A formgrader page shows Markdown as a browser sees it, in the instructor's session: nothing in
# there may start a tag or a script. An invisible space ends what would have been one.
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_SCHEME = re.compile(r"(?i)(javascript|vbscript|data)(?=\s*:)")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
INVISIBLE = "\u200b"


class Unreadable(Exception):
    """The submitted file is not a notebook; the text says why."""


def answers(data: bytes) -> dict[str, str]:
    """The source of every cell that has a grade_id. Raises Unreadable.

    Of cells with the same id the last counts, as for nbgrader.
    """
    try:
        cells = json.loads(data.decode("utf-8-sig"))["cells"]
    except (UnicodeDecodeError, ValueError, RecursionError, MemoryError):
        raise Unreadable("it is not JSON") from None
    except (LookupError, TypeError):
        raise Unreadable("it is JSON, but not a notebook") from None
    if not isinstance(cells, list):
        raise Unreadable("it is JSON, but not a notebook")
    found: dict[str, str] = {}
    for cell in cells:
        try:
            grade_id, source = cell["metadata"]["nbgrader"]["grade_id"], cell["source"]
            text = source if isinstance(source, str) else "".join(source)
        except (LookupError, TypeError, AttributeError):
            continue
        if isinstance(grade_id, str):
            found[grade_id] = _plain(text)
    return found


def rebuild(released: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
    """The released notebook with ``given`` in the cells that are the learner's to write."""
    notebook = copy.deepcopy(released)
    for cell in notebook["cells"]:
        marks = cell["metadata"].get("nbgrader", {})
        if not marks.get("solution") or marks["grade_id"] not in given:
            continue
        text = given[marks["grade_id"]]
        if text == _text(cell["source"]):
            continue
        if len(text) > MAX_ANSWER:
            text = text[:MAX_ANSWER] + "\n\n(cut: longer than 64 kB)"
        cell["source"] = _harmless(text) if cell["cell_type"] == "markdown" else text
        cell.pop("attachments", None)
    return notebook


def solution_ids(released: dict[str, Any]) -> list[str]:
    """The grade_ids of the cells that are the learner's to write."""
    marks = [cell["metadata"].get("nbgrader", {}) for cell in released["cells"]]
    return [m["grade_id"] for m in marks if m.get("solution")]


def _text(source: Any) -> str:
    return source if isinstance(source, str) else "".join(source)


def _plain(text: str) -> str:
    """Text that can be stored: no lone surrogates, no control characters."""
    return _CONTROL.sub("", text.encode("utf-8", "replace").decode("utf-8"))


def _harmless(markdown: str) -> str:
    markdown = _TAG.sub("<" + INVISIBLE, markdown)
    return _SCHEME.sub(lambda m: m[0][0] + INVISIBLE + m[0][1:], markdown)
