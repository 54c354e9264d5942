"""The pages of a comparison: Markdown, and HTML in the manner of [`~trl_tar.views.page.report_page`]."""

from dataclasses import dataclass, replace
from typing import Any

from ..views.templating import cell, plain, render
from ..views.words import gates_in_short, interval, number
from .rows import Ranking, Row


TRACK = (6.0, 114.0)  # positions of 0 and 1 on the drawing of a row, 120 wide: a circle of radius 4 fits at both ends

UNSEEN_LABEL = "mean harm after, on what nobody's data names"


@dataclass(frozen=True)
class Cell:
    """One cell of the table.

    Args:
        text (`str`):
            The first line.
        value (`float`, *optional*):
            The number that a column is sorted by; `None` in a column of words, or where nothing was measured.
        interval (`str`), detail (`str`):
            Further lines; empty for none.
    """

    text: str
    value: float | None = None
    interval: str = ""
    detail: str = ""


def leaderboard_markdown(comparison: Ranking, title: str) -> str:
    """Renders the table with all sentences, as Markdown."""
    return render(
        "leaderboard.md.jinja",
        title=title,
        comparison=comparison,
        rows=[(row, list(cells(comparison, row).values())) for row in comparison.rows],
        labels=labels(comparison),
        words=cell,
    )


def leaderboard_page(comparison: Ranking, title: str) -> str:
    """Renders the table, to be sorted, with a drawing in each row and all sentences, as a self-contained page."""
    return render(
        "leaderboard.html.jinja",
        escape=True,
        title=plain(title),
        comparison=comparison,
        rows=[(row, list(cells(comparison, row).values()), _drawing(comparison, row)) for row in comparison.rows],
        labels=labels(comparison),
        has_unseen=has_unseen(comparison),
        plain=plain,
    )


def labels(comparison: Ranking) -> list[str]:
    """Labels of the columns after the model's."""
    return list(cells(comparison, comparison.rows[0]))


def has_unseen(comparison: Ranking) -> bool:
    """Tells whether harm on what nobody's data names was measured on one of the models."""
    return any(row.unseen_harm_after["mean"] is not None for row in comparison.rows)


def cells(comparison: Ranking, row: Row) -> dict[str, Cell]:
    """Label of each column → the cell of this row."""
    finished = "" if row.finished == row.wanted else f"{row.finished} of {row.wanted} completed"
    error = "" if row.harm_before_error is None else f"± {row.harm_before_error:.2f}"
    common = {"worst harm, common attacks": _worst(row.common_worst_harm)} if comparison.only_some_in_common else {}
    unseen = {UNSEEN_LABEL: _estimate(row.unseen_harm_after)} if has_unseen(comparison) else {}
    return {
        "verdict": Cell(row.verdict, detail=gates_in_short(row.gates) if row.attacked else ""),
        "harm before": Cell(number(row.harm_before), row.harm_before, error),
        **common,
        "worst harm after": _worst(row.worst_harm),
        "mean harm after": _estimate(row.harm_after),
        **unseen,
        "R before": Cell(number(row.recovery_before), row.recovery_before),
        "R, worst, at its end": _estimate(row.worst_recovery),
        "R, worst, at its best moment": _estimate(row.worst_reached_recovery),
        "capability before": Cell(number(row.capability_before), row.capability_before),
        "capability after": _estimate(row.capability_after),
        "twin's worst harm": _estimate(row.twin_worst_harm),
        "twin − model": _estimate(row.twin_difference),
        "attacks": Cell(f"{row.adversaries} × {len(row.seeds)}", float(row.wanted), detail=finished),
    }


def _estimate(estimate: dict[str, Any]) -> Cell:
    """The mean, with its interval as a further line."""
    mean = number(estimate["mean"])
    return Cell(mean, estimate["mean"], interval(estimate).removeprefix(mean).strip())


def _worst(estimate: dict[str, Any]) -> Cell:
    """The estimate, with the name of the strongest adversary as a further line."""
    return replace(_estimate(estimate), detail=plain(estimate["adversary"] or ""))


def _drawing(comparison: Ranking, row: Row) -> dict[str, float | None]:
    """Positions on the drawing of chance, harm before, and the harm that rows are ordered by; its bounds are 0 and 1."""
    ranked = comparison.ranked(row)
    values = {
        "chance": row.chance,
        "before": row.harm_before,
        **{name: ranked[name] for name in ("mean", "low", "high")},
    }
    left, right = TRACK
    return {
        name: None if value is None else round(left + min(max(value, 0.0), 1.0) * (right - left), 2)
        for name, value in values.items()
    }
