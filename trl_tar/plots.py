"""Figures from reports and training logs, readable in black and white."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from .records import AttackRecord, ModelRecord
from .report import Report
from .statistics import CHANCE, Estimate, mean, over_adversaries
from .wording import plain


if TYPE_CHECKING:
    from .leaderboard import Comparison
    from .red_teaming.search import SearchResult

Attacked = Mapping[str, Report | ModelRecord]  # label → what has `before` and `attacks`
# colour-blind safe (https://jfly.uni-koeln.de/color); line style and marker tell the lines apart without colour
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "x")
LABEL_WIDTH = 38  # characters of a model's name; of a longer one the middle is left out
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
    ],
    "gradient norm": [
        ("grad_norm/retain", "retain"),
        ("grad_norm/tamper_resistance", "tamper resistance"),
    ],
}


def plot_attacks(reports: Attacked, adversary: str | None = None, chance: float | None = CHANCE) -> Figure:
    """Harm and held-out capability along the completed attacks: mean, and 95 % t interval over seeds as a band.

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
        axes.set_ylabel(f"{title} (accuracy)")
        if chance is not None:
            _chance(axes, chance)
    _legend(figure, left, len(reports))
    return figure


def plot_adversary_loss(reports: Attacked, adversary: str | None = None) -> Figure:
    """Loss of the attacker along the attack, mean since the point before; arguments as for [`plot_attacks`]."""
    figure = Figure(figsize=(5, 3.8), layout="constrained")
    axes = figure.subplots()
    _trajectories(axes, reports, "loss", adversary)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("attacker's loss (nats per token)")
    _legend(figure, axes, min(len(reports), 2))
    return figure


def plot_tradeoff(reports: Attacked, chance: float | None = CHANCE) -> Figure:
    """Held-out capability against harm: an arrow from before attack to the mean after, a dot for each completed attack.

    Best is low and to the right. Arguments as for [`plot_attacks`].
    """
    figure = Figure(figsize=(5.4, 5), layout="constrained")
    axes = figure.subplots()
    for i, (label, report) in enumerate(reports.items()):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % len(MARKERS)]}
        after = [a.outcome for a in report.attacks if a.outcome is not None]
        points = [(p["capability"], p["harm"]) for p in after if None not in (p["capability"], p["harm"])]
        start = report.before["capability"], report.before["harm"]
        face = {} if style["marker"] == "x" else {"markerfacecolor": "white"}
        if None not in start:
            axes.plot(*start, markersize=8, linestyle="none", **style, **face)
        if not points:
            axes.plot([], [], linestyle="none", label=f"{label} (no attack completed)", **style)
            continue
        end = mean([x for x, _ in points]), mean([y for _, y in points])
        axes.plot(*zip(*points, strict=True), linestyle="none", markersize=3, alpha=0.45, **style)
        axes.plot(*end, markersize=9, linestyle="none", label=label, **style)
        if None in start:
            continue
        arrow = {
            "arrowstyle": "->",
            "color": style["color"],
            "linestyle": LINES[i % len(LINES)],
            "shrinkA": 6,
            "shrinkB": 6,
        }
        axes.annotate("", xy=end, xytext=start, arrowprops=arrow)
    left = max(0, axes.get_xlim()[0] - 0.15)
    axes.set(xlim=(left, 1.04), ylim=(0, 1.04), xlabel="held-out capability (accuracy)", ylabel="harm (accuracy)")
    if chance is not None:
        _chance(axes, chance, "left")
    axes.set_title("open: before attack, filled: after (mean), small: each attack", fontsize="small")
    _finish(axes)
    _legend(figure, axes, min(len(reports), 2))
    return figure


def plot_training(log_history: str | Path | Sequence[Mapping[str, Any]]) -> Figure:
    """Training curves of [`TARTrainer`]: attacker's, tamper-resistance and retain losses, and gradient norms.

    Args:
        log_history (`str`, `Path` or `list[dict]`):
            `trainer.state.log_history`, or a file that holds it, such as a checkpoint's `trainer_state.json`.
    """
    if isinstance(log_history, str | Path):
        content = json.loads(Path(log_history).read_text(encoding="utf-8"))
        log_history = content["log_history"] if isinstance(content, dict) else content
    panels = {
        title: [line for line in lines if any(line[0] in row for row in log_history)]
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
            curve = [(row["step"], row[key]) for row in log_history if key in row]
            style = {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i]}
            axes.plot(*zip(*curve, strict=True), label=label, markersize=4, markevery=max(1, len(curve) // 8), **style)
        axes.set(xlabel="outer step", ylabel=title)
        axes.xaxis.set_tick_params(labelbottom=True)
        axes.legend(fontsize="small", framealpha=0.9)
        _finish(axes)
    for axes in grid[len(panels) :]:
        axes.remove()
    return figure


def plot_search(result: "SearchResult", chance: float | None = CHANCE) -> Figure:
    """Harm of the adversary that the attacker would keep, after each trial of [`search`], for the model and its twin.

    The lower curve of each counts only attacks that leave a usable model. A cross at the foot is a trial that failed.

    Args:
        result ([`SearchResult`]):
            What [`search`] returned.
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
    axes.set(xlabel="trials", ylabel="harm of the strongest attack (accuracy)", ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if chance is not None:
        _chance(axes, chance)
    _finish(axes)
    _legend(figure, axes, 2)
    return figure


def plot_leaderboard(comparison: "Comparison") -> Figure:
    """Harm of each model before attack and under the strongest attack, with its 95 % t interval; of the twin, if any.

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
    _finish(axes)
    _legend(figure, axes, 2)
    return figure


def _shortened(name: str) -> str:
    text = plain(name)
    half = LABEL_WIDTH // 2
    return text if len(text) <= LABEL_WIDTH else f"{text[: half - 1]}…{text[-half:]}"


def _trajectories(axes: Axes, reports: Attacked, metric: str, adversary: str | None) -> None:
    last = 1
    for i, (label, report) in enumerate(reports.items()):
        names = {a.adversary for a in report.attacks}
        if adversary is not None and adversary not in names:
            raise ValueError(f"The report {label!r} has no attack named {adversary!r}. Choose from {sorted(names)}.")
        points = curve(report, [a for a in report.attacks if adversary in (None, a.adversary)], metric)
        steps = list(points)
        values = [points[step]["mean"] for step in steps]
        style = {
            "color": COLOURS[i % len(COLOURS)],
            "linestyle": LINES[i % len(LINES)],
            "marker": MARKERS[i % len(MARKERS)],
        }
        axes.plot(steps, values, label=label if steps else f"{label} (nothing measured)", markersize=4.5, **style)
        band = [(step, points[step]["low"], points[step]["high"]) for step in steps if points[step]["low"] is not None]
        if band:
            x, low, high = map(np.array, zip(*band, strict=True))
            axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)
        last = max([last, *steps])
    axes.set_xscale("function", functions=(_root, np.square))  # much happens in the first steps
    axes.xaxis.set_major_locator(FixedLocator(_ticks(last)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlim(0, last * 1.03)
    axes.set_xlabel("attack step (square-root scale)")
    _finish(axes)


def curve(record: Report | ModelRecord, attacks: Sequence[AttackRecord], metric: str) -> dict[int, Estimate]:
    """Step → estimate over seeds of some of its attacks, at the steps that all completed ones share; others would end in midair.

    Step 0 is the model before attack. An edit of the weights has no way to show, and is left out where other attacks have one."""
    complete = [a for a in attacks if a.outcome is not None]
    complete = [a for a in complete if len(a.trajectory) > 1] or complete
    if not complete:
        return {}
    shared = set.intersection(*({point["step"] for point in a.trajectory} for a in complete))
    values: dict[int, list[tuple[str, int, float]]] = {step: [] for step in sorted(shared)}
    for attack in complete:
        for point in attack.trajectory:
            if point["step"] in shared and point[metric] is not None:
                values[point["step"]].append((attack.adversary, attack.seed, point[metric]))
    estimates = {step: over_adversaries(found) for step, found in values.items() if found}
    before = record.before.get(metric)
    if not estimates or before is None:
        return estimates
    return {0: over_adversaries([("", 0, before)]), **estimates}


def _root(x: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(x, 0))


def _ticks(last: int) -> list[int]:
    """Round steps that are far enough apart on a square-root scale."""
    ticks = [0]
    for step in (1, 5, 10, 20, 50, 100, 200, 300, 500, 1000, 2000, 3000, 5000, 10000):
        if step <= last and step**0.5 - ticks[-1] ** 0.5 >= 0.12 * last**0.5:
            ticks.append(step)
    return ticks


def _chance(axes: Axes, chance: float, side: str = "right") -> None:
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


def _finish(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(columns, 4), frameon=False, handlelength=3.2)
