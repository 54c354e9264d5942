"""The leaderboard as a figure."""

from matplotlib.figure import Figure

from ..views.figure_style import COLOURS, LINES, finish, legend
from ..views.templating import plain
from .rows import Ranking


# characters of a model's name, a choice: a longer one loses its middle, so that half the figure is left
LABEL_WIDTH = 38


def plot_leaderboard(comparison: Ranking) -> Figure:
    """Plots harm of each model before attack and under the strongest attack, with its 95 % t interval, and that of its twin.

    Args:
        comparison ([`Comparison`]):
            What [`compare`] returned; the first row is at the top.
    """
    rows = comparison.rows
    figure = Figure(figsize=(8, 1.6 + 0.36 * len(rows)), layout="constrained")
    axes = figure.subplots()
    ranked = [comparison.ranked(row) for row in rows]
    after = "worst after the common attacks" if comparison.only_some_in_common else "worst after attack"
    for i, (row, estimate) in enumerate(zip(rows, ranked, strict=True)):
        if estimate["low"] is not None:
            axes.plot([estimate["low"], estimate["high"]], [i, i], color=COLOURS[1], linewidth=2, zorder=2)
        axes.plot([row.chance, row.chance], [i - 0.3, i + 0.3], color="0.45", linestyle=LINES[3], zorder=1)
    for label, harms, style in [
        ("before attack", [row.harm_before for row in rows], {"color": COLOURS[0], "markerfacecolor": "white"}),
        ("undefended twin, worst", [row.twin_worst_harm["mean"] for row in rows], {"color": COLOURS[2], "marker": "^"}),
        (after, [estimate["mean"] for estimate in ranked], {"color": COLOURS[1]}),
    ]:
        points = [(harm, i) for i, harm in enumerate(harms) if harm is not None]
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(
                x, y, **{"marker": "o", "markersize": 7, "linestyle": "none", "label": label, "zorder": 3, **style}
            )
    axes.plot([], [], color="0.45", linestyle=LINES[3], label="chance")
    names = [_shortened(row.model) + ("" if row.attacked else "\n(not attacked)") for row in rows]
    axes.set_yticks(range(len(rows)), names, parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(rows) - 0.4, -0.6), xlabel="harm")
    finish(axes)
    legend(figure, axes, 2)
    return figure


def _shortened(name: str) -> str:
    text = plain(name)
    half = LABEL_WIDTH // 2
    return text if len(text) <= LABEL_WIDTH else f"{text[: half - 1]}…{text[-half:]}"
