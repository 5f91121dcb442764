"""How often was each sample of an epoch trained on? Counted, and drawn as strips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.patches import Patch

from workbench.figures import Shown, figure, show

# 0, 1, 2 or more times: a colour and a pattern each, so that neither is needed alone.
LOOKS = (
    ("never", {"facecolor": "white", "edgecolor": "#D55E00", "hatch": "/////"}),
    ("once", {"facecolor": "#CFE6F3", "edgecolor": "#7FB4D6", "hatch": ""}),
    ("twice", {"facecolor": "#E69F00", "edgecolor": "#000000", "hatch": "xxxxx"}),
)


def counted(trained: Iterable[int], length: int) -> list[int]:
    """How often each of ``length`` samples occurs in ``trained``."""
    counts = [0] * length
    for sample in trained:
        counts[sample] += 1
    return counts


def repeated_and_never(counts: Sequence[int]) -> tuple[int, int]:
    """(samples trained more than once, samples never trained)."""
    return sum(count > 1 for count in counts), sum(count == 0 for count in counts)


def strips(
    rows: Mapping[str, Sequence[int]], order: Sequence[int], kills: Mapping[str, Sequence[int]]
) -> Shown:
    """A strip for each way to resume: one box a sample, marked by how often it was trained on.

    ``rows`` maps a name to the counts of an epoch. The boxes stand in ``order``, the killed
    process's. ``kills`` has, for each name, after how many of them that process was killed.
    """
    fig, ax = figure(size=(9.5, 0.62 * len(rows) + 1.0))
    for row, (name, counts) in enumerate(rows.items()):
        for place, sample in enumerate(order):
            look = LOOKS[min(counts[sample], 2)][1]
            ax.bar(place, 0.7, width=1.0, bottom=row - 0.35, align="edge", linewidth=0.5, **look)
        for kill in kills[name]:
            ax.plot([kill, kill], [row - 0.5, row + 0.5], color="#000000", linewidth=2.0)
    ax.text(min(kills[next(iter(rows))]), -0.5, "killed here", va="bottom", ha="center")
    ax.set(xlim=(0, len(order)), ylim=(len(rows) - 0.5, -0.9), yticks=range(len(rows)))
    ax.set_yticklabels(list(rows))
    ax.set_xlabel("samples of the epoch, in the order in which the killed process had them")
    ax.grid(False)
    ax.spines[["left", "bottom"]].set_visible(False)
    patches = [Patch(label=name, linewidth=0.5, **look) for name, look in LOOKS]
    fig.legend(handles=patches, loc="outside upper right", ncols=3, frameon=False)
    found = {name: repeated_and_never(counts) for name, counts in rows.items()}
    alt = f"One strip of {len(order)} boxes for each way to resume. " + " ".join(
        f"{name}, killed after {' and '.join(map(str, kills[name]))} samples: {again} trained "
        f"twice, {never} never."
        for name, (again, never) in found.items()
    )
    return show(
        fig,
        alt,
        {
            "way to resume": list(found),
            "trained twice": [again for again, _ in found.values()],
            "never": [never for _, never in found.values()],
            "once": [list(counts).count(1) for counts in rows.values()],
        },
    )
