"""The figure of a search for the strongest adversary."""

import math

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..report.recovery import CHANCE
from ..views.figure_style import COLOURS, LINES, MARKERS, chance_line, finish, legend
from .trials import SearchResult


def plot_search(result: SearchResult, chance: float | None = CHANCE) -> Figure:
    """Draws the harm of the adversary that the attacker would keep after each trial, for the model and its twin.

    The lower curve of each counts only attacks that leave a usable model. A cross at the foot is a trial that failed.

    Args:
        result ([`SearchResult`]):
            The trials that [`search`] returned.
        chance (`float`, *optional*, defaults to `0.25`):
            Line of a model that guesses; `None` for none.
    """
    figure = Figure(figsize=(5.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for i, (role, trials) in enumerate(result.trials.items()):
        for usable, line in ((False, LINES[0]), (True, LINES[1])):
            harms = [math.nan if harm is None else harm for harm in result.curve(role, usable)]
            label = f"{role}, usable attacks" if usable else role
            style = {"color": COLOURS[i], "linestyle": line, "marker": MARKERS[i], "label": label}
            axes.step(range(1, len(harms) + 1), harms, where="post", markersize=4, **style)
        failed = [trial.number + 1 for trial in trials if trial.selection_harm is None]
        axes.plot(failed, [0.02 + 0.03 * i] * len(failed), linestyle="none", marker="x", color=COLOURS[i])
    axes.set(xlabel="trials", ylabel="harm of the strongest attack (0 to 1)", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chance is not None:
        chance_line(axes, chance)
    finish(axes)
    legend(figure, axes, 2)
    return figure
