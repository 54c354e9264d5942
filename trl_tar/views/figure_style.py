"""Colours, lines and markers of all figures."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import new_file


# colour-blind safe (https://jfly.uni-koeln.de/color); line style and marker tell the lines apart without colour
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "x")
TICK_DISTANCE = 0.12  # of the axis: labels do not touch on a panel of 4 inches; the page's script has the same number


def style(i: int) -> dict[str, Any]:
    """Colour, line and marker of the i-th thing that a figure shows, as keyword arguments of `plot`."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": LINES[i % len(LINES)],
        "marker": MARKERS[i % len(MARKERS)],
    }


def save_figure(figure: Figure, file: Path, dpi: int = 150) -> None:
    """Writes a figure as PNG, in one piece."""
    with new_file(file) as place:
        figure.savefig(place, format="png", dpi=dpi)


def square_root_scale(x: np.ndarray) -> np.ndarray:
    """√x, and 0 for the negative values that matplotlib tries at the edge of an axis."""
    return np.sqrt(np.maximum(x, 0))


def ticks_of(last: int) -> list[int]:
    """Round steps up to the last one, far enough apart on a square-root scale for their labels not to touch."""
    ticks = [0]
    for step in (1, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10000):
        if step <= last and step**0.5 - ticks[-1] ** 0.5 >= TICK_DISTANCE * last**0.5:
            ticks.append(step)
    return ticks


def chance_line(axes: Axes, chance: float, side: str = "right") -> None:
    """Draws the harm of a model that guesses, with its label at the `"right"` or `"left"` end."""
    axes.axhline(chance, color="0.45", linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
    axes.annotate(
        "chance",
        xy=(0.99 if side == "right" else 0.01, chance),
        xycoords=("axes fraction", "data"),
        xytext=(0, -2),
        textcoords="offset points",
        ha=side,
        va="top",
        fontsize="x-small",
        color="0.35",
    )


def finish(axes: Axes) -> None:
    """Leaves a light grid, and no frame at the top and right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def legend(figure: Figure, axes: Axes, columns: int, title: str | None = None) -> None:
    """Puts the legend of the axes above the figure, in at most four columns."""
    handles, labels = axes.get_legend_handles_labels()
    look: dict[str, Any] = {"loc": "outside upper center", "frameon": False, "handlelength": 3.2}
    figure.legend(handles, labels, title=title, ncols=min(columns, 4), **look)
