"""The table and the figures of the ablation, from its reports and its log of settings."""

import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..files import write_json, write_text
from ..report.build import judged_again
from ..report.report import FILE_NAME, Report
from ..views.frontier import plot_frontier
from .ablation_variants import VARIANTS
from .settings_log import noted, tried
from .table import HARM_COLUMNS, KEPT_COLUMNS, Columns, Row, markdown_table, row_of, terminal_table


PLACE = re.compile(r"world-(\d+)/(\w+)-seed-(\d+)")  # of a model's folder in that of the ablation
ORDER = list(VARIANTS)


def report_on(output: Path, console: Console | None = None) -> list[Row]:
    """Writes `ablation.json`, `table.md` and `figures` of all that has a report, and prints tables and log where there is a
    console. Nothing is trained and no model is loaded.

    Args:
        output (`Path`):
            Folder of the ablation.
        console (`Console`, *optional*):
            Where to print.

    Returns:
        `list[dict]`: the rows of the table.

    Raises:
        `ValueError`: if there is no report.
    """
    rows = rows_of(output)
    if not rows:
        raise ValueError(f"{str(output)!r} has no variant with a report. Run it without --only-report first.")
    log = tried(noted(output))
    write_json(output / "ablation.json", rows)
    text = f"{markdown_table(rows, {**RUN, **COST, **HARM_COLUMNS, **KEPT_COLUMNS})}\n{log}"
    write_text(output / "table.md", text)
    for world, of_world in _by_world(rows).items():
        write_figure(output / "figures" / f"frontier-world-{world}.png", world, of_world)
        if console is not None:
            console.print(terminal_table(f"World {world}: what came back", of_world, {**NAME, **COST, **HARM_COLUMNS}))
            console.print(terminal_table(f"World {world}: what was kept", of_world, {**NAME, **KEPT_COLUMNS}))
    if console is not None:
        console.print(log, markup=False)
        console.print(f"Table, figures and reports are in {output}", markup=False)
    return rows


def rows_of(output: Path) -> list[Row]:
    """Returns a row for each model with a report, in the order of worlds, variants and seeds; the reports are judged again by the
    rules of this version."""
    lines, rows = noted(output), []
    for file in output.glob(f"world-*/*-seed-*/{FILE_NAME}"):
        found = PLACE.fullmatch(file.parent.relative_to(output).as_posix())
        if found is None or found[2] not in VARIANTS:
            continue
        job = {"world": int(found[1]), "variant": found[2], "seed": int(found[3])}
        own = [line for line in lines if job.items() <= line.items()]
        started = [line["passes"] for line in own if line["event"] == "started"]
        minutes = [line["minutes"] for line in own if line["event"] == "finished"]
        cost = {
            "passes": started[-1] if started else None,
            "minutes": minutes[-1] if minutes else None,
            "resumed": len(started) > 1,
        }
        rows.append({**job, "words": VARIANTS[found[2]].words, **cost, **row_of(judged_again(Report.load(file)))})
    return sorted(rows, key=lambda row: (row["world"], ORDER.index(row["variant"]), row["seed"]))


def write_figure(file: Path, world: int, rows: Sequence[Row]) -> None:
    """Draws the frontier of one world: a point for each of its models that was measured, with intervals over attack seeds."""
    file.parent.mkdir(exist_ok=True)
    several = len({row["seed"] for row in rows}) > 1
    labels = [f"{row['words']}, seed {row['seed']}" if several else row["words"] for row in rows]
    unknown = {"mean": None, "low": None, "high": None, "n": 0}
    points = {
        label: (row["trainability"] or unknown, row["strongest"]) for label, row in zip(labels, rows, strict=True)
    }
    title = f"Knowledge world {world}: each point a training, 95 % intervals over attack seeds"
    plot_frontier(points, title).savefig(file)


def _by_world(rows: Sequence[Row]) -> dict[int, list[Row]]:
    worlds: dict[int, list[Row]] = {}
    for row in rows:
        worlds.setdefault(row["world"], []).append(row)
    return worlds


def _name(row: Row) -> str:
    return row["words"] if row["seed"] == 0 else f"{row['words']}, seed {row['seed']}"


def _minutes(row: Row) -> str:
    """A training that was resumed has taken longer than its last part, which is all that its log knows."""
    if row["minutes"] is None:
        return "–"
    return f"{'≥ ' if row['resumed'] else ''}{row['minutes']:.1f}"


def _passes(row: Row) -> str:
    return "–" if row["passes"] is None else f"{row['passes']:,}"


NAME: Columns = {"variant": _name}
RUN: Columns = {"world": lambda row: str(row["world"]), **NAME}
COST: Columns = {"passes": _passes, "minutes": _minutes}
