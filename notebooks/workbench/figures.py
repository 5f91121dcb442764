"""Figures for everybody: alt text, a table of the numbers, colours that survive colour blindness.

Every line has a colour *and* a dash pattern, so no meaning hangs on colour alone.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's palette, https://jfly.uni-koeln.de/color/: told apart with any colour vision.
HEALTHY: dict[str, Any] = {"color": "#0072B2", "linestyle": "-", "linewidth": 2.0}
BROKEN: dict[str, Any] = {"color": "#D55E00", "linestyle": "--", "linewidth": 2.0}
YOURS: dict[str, Any] = {"color": "#009E73", "linestyle": ":", "linewidth": 3.0}
STYLES: tuple[dict[str, Any], ...] = (
    HEALTHY,
    BROKEN,
    YOURS,
    {"color": "#CC79A7", "linestyle": "-.", "linewidth": 2.0},
    {"color": "#E69F00", "linestyle": (0, (5, 1, 1, 1, 1, 1)), "linewidth": 2.0},
    {"color": "#56B4E9", "linestyle": (0, (1, 1)), "linewidth": 2.0},
    {"color": "#000000", "linestyle": (0, (8, 3)), "linewidth": 1.5},
)


@dataclass(frozen=True)
class Shown:
    """What ``show`` returns: a figure or a table as HTML, with a text form beside it."""

    markup: str
    text: str

    def _repr_html_(self) -> str:
        return self.markup

    def __repr__(self) -> str:
        return self.text


def figure(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (8, 4)) -> Any:
    """(figure, axes), with the course's looks; no pyplot, so nothing is shown twice."""
    fig = Figure(figsize=size, layout="constrained", dpi=110)
    axes = fig.subplots(rows, columns)
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)
    return fig, axes


def cell(value: Any) -> str:
    """A number as a table shows it: short, and exact where exactness is the point."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _rows_html(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f'<th scope="col" style="text-align:left">{html.escape(h)}</th>' for h in header)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="text-align:left">{html.escape(cell(value))}</td>' for value in row)
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _rows_text(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [list(header), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], *, caption: str = "") -> Shown:
    """A table of results, as HTML and as text."""
    title = f"<p><strong>{html.escape(caption)}</strong></p>" if caption else ""
    text = f"{caption}\n" if caption else ""
    return Shown(title + _rows_html(header, rows), text + _rows_text(header, rows))


def show(fig: Figure, alt: str, numbers: Mapping[str, Sequence[Any]] | None = None) -> Shown:
    """The figure as an image with alt text, and under it, folded away, the numbers it draws.

    ``alt`` says what the figure shows to someone who cannot see it. ``numbers`` maps column
    names to equally long columns.
    """
    if not alt.strip():
        raise ValueError("show() needs alt text: say what the figure shows")
    png = io.BytesIO()
    # Without the Software entry the bytes do not depend on matplotlib's version string.
    fig.savefig(png, format="png", metadata={"Software": None})
    data = base64.b64encode(png.getvalue()).decode()
    markup = (
        f'<img alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{data}" '
        'style="max-width:100%">'
    )
    text = f"[figure] {alt}"
    if numbers:
        header, rows = list(numbers), list(zip(*numbers.values(), strict=True))
        markup += f"<details><summary>The numbers</summary>{_rows_html(header, rows)}</details>"
        text += "\n" + _rows_text(header, rows)
    return Shown(markup, text)
