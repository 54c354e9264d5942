"""The frontier of resistance and of what honest users can still learn, with a labelled point for each model."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from ..report.intervals import Estimate
from ..report.verdict import gate_named
from .figure_style import COLOURS, MARKERS, finish


RADII = (9, 16, 25, 36, 50, 66, 84, 104, 128, 156, 190)  # points from a mark to its label, the nearest first
ANGLES = 16  # directions that are tried at each radius
MARK = 5  # points around a mark that no label covers
BAR = 1  # points around an interval that a label covers only where it finds no other place
MARGIN = 0.1  # of the axes' length, beyond the outermost means


def plot_frontier(points: Mapping[str, tuple[Estimate, Estimate]], title: str = "") -> Figure:
    """Plots R under the strongest attack against benign trainability: a point for each model, and intervals where there are some.

    Best is low and to the right, where the gates' bounds leave a corner.

    Args:
        points (`dict[str, tuple[dict, dict]]`):
            Label → estimates of trainability and of R. A model without one of the two is named below the axes.
        title (`str`, *optional*):
            What the models have in common.

    Returns:
        `Figure`: to show or `savefig`.
    """
    figure = Figure(figsize=(8, 6), dpi=150, layout="constrained")
    axes = figure.subplots()
    drawn = {label: point for label, point in points.items() if None not in [value["mean"] for value in point]}
    for i, (label, (x, y)) in enumerate(drawn.items()):
        axes.errorbar(
            x["mean"],
            y["mean"],
            xerr=_error(x),
            yerr=_error(y),
            label=label,
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[(i + i // len(COLOURS)) % len(MARKERS)],  # the pair of colour and marker is its own
            linestyle="none",
            elinewidth=0.8,
            zorder=3,
        )
    _limits(axes, list(drawn.values()))
    _bounds(axes)
    missing = [label for label in points if label not in drawn]
    below = f"\nnot measured: {', '.join(missing)}" if missing else ""
    axes.set_xlabel(f"benign trainability (share of the base's gain){below}")
    axes.set_ylabel("R under the strongest attack, at its end")
    axes.set_title(title, fontsize="small")
    finish(axes)
    place_labels(figure, axes)
    return figure


def _error(estimate: Estimate) -> list[list[float]] | None:
    """The distances of the bounds below and above the mean, as `errorbar` takes them; `None` without an interval."""
    mean, low, high = estimate["mean"], estimate["low"], estimate["high"]
    return None if mean is None or low is None or high is None else [[mean - low], [high - mean]]


def _limits(axes: Axes, points: Sequence[tuple[Estimate, Estimate]]) -> None:
    """Sets the axes by the means, from at most `least` to at least 1: an interval of few seeds may be several times as long as
    the axes."""
    for position, least, set_limits in ((0, 0.7, axes.set_xlim), (1, 0.0, axes.set_ylim)):
        means = [value for point in points if (value := point[position]["mean"]) is not None]
        low, high = min([least, *means]), max([1.0, *means])
        set_limits(low - MARGIN * (high - low), high + MARGIN * (high - low))


def _bounds(axes: Axes) -> None:
    """Draws the bounds of the two gates, and shades the corner that passes both."""
    benign, recovery = gate_named("benign_trainability"), gate_named("worst_recovery_upper_bound")
    assert benign is not None and recovery is not None
    x, y = benign.bound.threshold, recovery.bound.threshold
    for draw, value in ((axes.axvline, x), (axes.axhline, y)):
        draw(value, color="0.45", linewidth=0.9, linestyle=(0, (1, 2)), zorder=0)
    (_, right), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    axes.fill_between([x, right], bottom, y, color="0.93", zorder=0, linewidth=0)
    axes.annotate(
        f"gates: at least {x:g}, R below {y:g}",
        (right, y),
        (-3, 3),
        textcoords="offset points",
        fontsize="x-small",
        ha="right",
        color="0.35",
    )


def place_labels(figure: Figure, axes: Axes) -> list[Annotation]:
    """Writes the label of each mark next to it, where it covers no other label, no mark and, if it can, no interval; a thin line
    of the mark's colour leads to a label that is further away. A label that finds no such place stands to the right."""
    figure.draw_without_rendering()  # the layout decides where the points are
    scale, room = figure.dpi / 72, axes.get_window_extent()
    marks, bars = [container.lines[0] for container in axes.containers], _bars(axes, BAR * scale)
    places = [axes.transData.transform(mark.get_xydata()[0]) for mark in marks]
    taken = [Bbox.from_extents(*(place - MARK * scale), *(place + MARK * scale)) for place in places]
    taken += [box_of(text) for text in axes.texts if isinstance(text, Annotation)]
    labels = []
    for mark, container, place in zip(marks, axes.containers, places, strict=True):
        line = {"arrowstyle": "-", "color": mark.get_color(), "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4}
        text = axes.annotate(
            container.get_label(),
            mark.get_xydata()[0],
            (0, 0),
            textcoords="offset points",
            fontsize="small",
            va="center",
            arrowprops=line,
        )
        text.set_in_layout(False)
        size = box_of(text)
        found = _free(place, size, scale, room, [*taken, *bars]) or _free(place, size, scale, room, taken)
        (x, y, side), box = found or ((RADII[0], 0.0, "left"), size)
        text.set_position((x, y))
        text.set_horizontalalignment(side)
        taken.append(box)
        labels.append(text)
    return labels


def box_of(label: Annotation) -> Bbox:
    """Returns the place of the words in pixels, without the line that leads to them."""
    label.get_window_extent()  # which works out where they are
    return Text.get_window_extent(label)


def _places() -> Iterator[tuple[float, float, str]]:
    """Yields offsets in points from a mark, with the side of the label that is there."""
    for radius in RADII:
        for i in range(ANGLES):
            angle = 2 * math.pi * i / ANGLES
            x, y = radius * math.cos(angle), radius * math.sin(angle)
            yield x, y, "left" if x > 1e-9 else "right" if x < -1e-9 else "center"


def _free(
    mark: np.ndarray, size: Bbox, scale: float, room: Bbox, taken: Sequence[Bbox]
) -> tuple[tuple[float, float, str], Bbox] | None:
    """Returns the first place, and its box in pixels, at which a label of that size is inside the room and covers nothing."""
    for x, y, side in _places():
        left = mark[0] + x * scale - {"left": 0.0, "center": 0.5, "right": 1.0}[side] * size.width
        box = Bbox.from_bounds(left, mark[1] + y * scale - size.height / 2, size.width, size.height)
        inside = box.x0 >= room.x0 and box.x1 <= room.x1 and box.y0 >= room.y0 and box.y1 <= room.y1
        if inside and not any(box.overlaps(other) for other in taken):
            return (x, y, side), box
    return None


def _bars(axes: Axes, reach: float) -> list[Bbox]:
    """The boxes in pixels of all intervals."""
    boxes = []
    for container in axes.containers:
        for lines in container.lines[2]:
            for segment in lines.get_segments():
                (x0, y0), (x1, y1) = axes.transData.transform(segment)
                boxes.append(Bbox.from_extents(x0 - reach, y0 - reach, x1 + reach, y1 + reach))
    return boxes
