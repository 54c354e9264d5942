"""Figures from reports and training logs, readable in black and white."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ..report.intervals import mean
from ..report.recovery import CHANCE
from .curves import Attacked, curve
from .figure_style import chance_line, finish, legend, square_root_scale, style, ticks_of


AGE = "tamper_resistance_loss/age_"  # beginning of the keys of L_TR by age, as the trainer logs them
AGE_POINTS = (
    40  # points of a line over the outer steps, each a mean: single evaluations are too noisy to read; a choice
)
# panel of the training figure → lines: (key of the log, label)
TRAINING_PANELS = {
    "attacker's loss (nats)": [
        ("adversary_loss/first", "before the attack"),
        ("adversary_loss/last", "end of the attack"),
    ],
    "tamper-resistance loss (nats)": [
        ("tamper_resistance_loss/first", "first judgement"),
        ("tamper_resistance_loss/last", "last judgement"),
    ],
    "retain loss": [
        ("retain_loss/lm", "cross-entropy (nats)"),
        ("retain_loss/representation", "distance of hidden states"),
        ("retain_loss/kl", "divergence at the output (nats)"),
    ],
    "gradient norm": [
        ("grad_norm/retain", "retain"),
        ("grad_norm/tamper_resistance", "tamper resistance"),
    ],
}


def plot_attacks(reports: Attacked, adversary: str | None = None, chance: float | None = CHANCE) -> Figure:
    """Plots harm and held-out capability along the completed attacks: the mean, and its 95 % t interval over seeds as a band.

    Args:
        reports (`dict[str, Report | ModelRecord]`):
            Label → report, in the order of the legend.
        adversary (`str`, *optional*):
            One attack; by default the mean over all, at the steps that they share.
        chance (`float`, *optional*, defaults to `0.25`):
            Line of a model that guesses; `None` for none.

    Returns:
        `Figure`: to show or `savefig`.
    """
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for axes, metric, title in [(left, "harm", "harm"), (right, "capability", "held-out capability")]:
        _trajectories(axes, reports, metric, adversary)
        axes.set_ylim(0, 1.02)
        axes.set_ylabel(f"{title} (0 to 1)")
        if chance is not None:
            chance_line(axes, chance)
    legend(figure, left, len(reports))
    return figure


def plot_adversary_loss(reports: Attacked, adversary: str | None = None) -> Figure:
    """Plots the attacker's loss along the attack, in nats a token, each point the mean since the one before it.

    The arguments are those of [`plot_attacks`]."""
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    _trajectories(axes, reports, "loss", adversary)
    lowest = (float(np.min(line.get_ydata(), initial=0.0)) for line in axes.get_lines())
    axes.set_ylim(bottom=min(lowest, default=0.0))  # below 0 where the loss is, as GRPO's may be
    axes.set_ylabel("attacker's loss (nats per token)")
    legend(figure, axes, min(len(reports), 2))
    return figure


def plot_tradeoff(reports: Attacked, chance: float | None = CHANCE) -> Figure:
    """Plots held-out capability against harm: an arrow from before attack to the mean after, a dot for each completed attack.

    Best is low and to the right. The arguments are those of [`plot_attacks`].
    """
    figure = Figure(figsize=(5.4, 5), layout="constrained")
    axes = figure.subplots()
    for i, (label, report) in enumerate(reports.items()):
        look = style(i)
        dots = {**look, "linestyle": "none"}
        whole = {**dots, "clip_on": False}  # also a marker at a harm of 0
        after = [a.outcome for a in report.attacks if a.outcome is not None]
        points = [(p["capability"], p["harm"]) for p in after if None not in (p["capability"], p["harm"])]
        start = report.before["capability"], report.before["harm"]
        face = {} if look["marker"] == "x" else {"markerfacecolor": "white"}
        if None not in start:
            axes.plot(*start, markersize=8, **whole, **face)
        if not points:
            axes.plot([], [], label=f"{label} (no attack completed)", **dots)
            continue
        end = mean([x for x, _ in points]), mean([y for _, y in points])
        axes.plot(*zip(*points, strict=True), markersize=3, alpha=0.45, **whole)
        axes.plot(*end, markersize=9, label=label, **whole)
        if None in start:
            continue
        arrow = {"arrowstyle": "->", "color": look["color"], "linestyle": look["linestyle"], "shrinkA": 6, "shrinkB": 6}
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
    left = max(0, axes.get_xlim()[0] - 0.15)
    axes.set(xlim=(left, 1.04), ylim=(0, 1.04), xlabel="held-out capability (0 to 1)", ylabel="harm (0 to 1)")
    if chance is not None:
        chance_line(axes, chance, "left")
    axes.set_title("open: before attack, filled: after (mean), small: each attack", fontsize="small")
    finish(axes)
    legend(figure, axes, min(len(reports), 2))
    return figure


def plot_training(log_history: str | Path | Sequence[Mapping[str, Any]]) -> Figure:
    """Plots the training curves of [`TARTrainer`]: attacker's, tamper-resistance and retain losses, and gradient norms.

    Args:
        log_history (`str`, `Path` or `list[dict]`):
            `trainer.state.log_history`, or a file that holds it, such as a checkpoint's `trainer_state.json`.

    Raises:
        `ValueError`: if the log has none of these curves.
    """
    logs = _entries(log_history)
    panels = {
        title: [line for line in lines if any(line[0] in row for row in logs)]
        for title, lines in TRAINING_PANELS.items()
    }
    panels = {title: lines for title, lines in panels.items() if lines}
    if not panels:
        raise ValueError(
            "`log_history` has no curve of TARTrainer. Give trainer.state.log_history or trainer_state.json."
        )
    columns = min(2, len(panels))
    rows = (len(panels) + 1) // 2
    figure = Figure(figsize=(4.5 * columns, 3 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True).flatten()
    for axes, (title, lines) in zip(grid, panels.items(), strict=False):
        for i, (key, label) in enumerate(lines):
            points = [(row["step"], row[key]) for row in logs if key in row]
            every = max(1, len(points) // 8)  # a marker on each of a thousand steps would hide the line
            axes.plot(*zip(*points, strict=True), label=label, markersize=4, markevery=every, **style(i))
        axes.set(xlabel="outer step", ylabel=title)
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.legend(fontsize="small", framealpha=0.9)
        finish(axes)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def plot_ages(log_history: str | Path | Sequence[Mapping[str, Any]]) -> Figure | None:
    """Plots −L_TR along the outer steps, a line for each age of continued attacks: the defence grows as old attacks reach what
    young ones do. With `tamper_resistance_loss="entropy"` it is the entropy of the attacked model.

    Args:
        log_history (`str`, `Path` or `list[dict]`):
            As in [`plot_training`].

    Returns:
        `Figure`: `None` for a training without continued attacks.
    """
    logs = _entries(log_history)
    ages = sorted({int(key.removeprefix(AGE)) for row in logs for key in row if key.startswith(AGE)})
    if not ages:
        return None
    figure = Figure(figsize=(6.5, 3.8), layout="constrained")
    axes = figure.subplots()
    width = max(1, max(row["step"] for row in logs) // AGE_POINTS)
    for i, age in enumerate(ages):
        points: dict[int, list[float]] = {}
        for row in logs:
            if f"{AGE}{age}" in row:
                points.setdefault(row["step"] // width, []).append(-row[f"{AGE}{age}"])
        means = [((part + 0.5) * width, mean(values)) for part, values in sorted(points.items())]
        label = str(age) if age < 2 else f"{age}–{2 * age - 1}"
        axes.plot(*zip(*means, strict=True), label=label, markersize=3.5, **style(i))
    axes.set(xlabel="outer step", ylabel="−L_TR after an attack (nats)")
    finish(axes)
    legend(figure, axes, 4, title="steps of the attack")
    return figure


def _entries(log_history: str | Path | Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The entries of a training log, or of the file that holds it."""
    if not isinstance(log_history, str | Path):
        return log_history
    content = json.loads(Path(log_history).read_text(encoding="utf-8"))
    return content["log_history"] if isinstance(content, dict) else content


def _trajectories(axes: Axes, reports: Attacked, metric: str, adversary: str | None) -> None:
    """Draws the mean of a metric over the steps of the attack, with its band; `ValueError` for an unknown adversary."""
    last = 1
    for i, (label, report) in enumerate(reports.items()):
        names = {a.adversary for a in report.attacks}
        if adversary is not None and adversary not in names:
            raise ValueError(f"The report {label!r} has no attack named {adversary!r}. Choose from {sorted(names)}.")
        points = curve(report, [a for a in report.attacks if adversary in (None, a.adversary)], metric)
        steps = list(points)
        values = [points[step]["mean"] for step in steps]
        look = style(i)
        label = label if steps else f"{label} (nothing measured)"
        # clipped only if empty, which the layout needs: a marker at step 0 or at a harm of 0 would be cut in half
        axes.plot(steps, values, label=label, markersize=4.5, clip_on=not steps, **look)
        band = [(step, points[step]["low"], points[step]["high"]) for step in steps if points[step]["low"] is not None]
        if band:
            x, low, high = map(np.array, zip(*band, strict=True))
            axes.fill_between(x, low, high, color=look["color"], alpha=0.15, linewidth=0)
        last = max([last, *steps])
    axes.set_xscale("function", functions=(square_root_scale, np.square))  # much happens in the first steps
    axes.xaxis.set_major_locator(FixedLocator(ticks_of(last)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, last * 1.03)
    axes.set_xlabel("attack step (square-root scale)")
    finish(axes)
