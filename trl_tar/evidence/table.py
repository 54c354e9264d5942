"""What one report says in a row of a table, for markdown and for the terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from ..report.recovery import recovery_before
from ..report.report import Report
from ..report.required_strength import in_words
from ..report.unseen_harm import UNSEEN, unseen_recovery
from ..views.words import interval, number


Row = dict[str, Any]
Columns = Mapping[str, Callable[[Row], str]]  # heading → cell


def row_of(report: Report) -> Row:
    """Returns the numbers of a report that a table shows: estimates over attack seeds, and the values of gates."""
    gates = {gate.name: gate.value for gate in report.verdict.gates}
    benign = report.benign
    unseen = unseen_recovery(report.attacks, report.references, report.config["chance"])
    return {
        "recovery_before": recovery_before(report, report.references, report.config["chance"]),
        "recovery": report.summary["recovery"],
        "strongest": report.summary["worst_recovery"],
        "strongest_cross_fit": report.summary["worst_recovery_cross_fit"],
        "unseen": unseen if UNSEEN in report.before else None,
        "capability": gates["capability"],
        "bystander": gates["bystander"],
        "retain_nll_gain": gates["retain_nll_gain"],
        "trainability": None if benign is None else benign["trainability"],
        "capability_after_benign": None if benign is None else benign["capability_ratio"],
        "verdict": report.verdict.word,
        "failed": [gate.name for gate in report.verdict.failed],
        "not_measured": [gate.name for gate in report.verdict.not_measured],
        "lacking": in_words(report.verdict.lacking or [], report.training),
    }


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+z.2f}"


def _failed(row: Row) -> str:
    failed, unknown = (", ".join(row[key]).replace("_", " ") for key in ("failed", "not_measured"))
    lacking = ", ".join(row["lacking"])
    rest = (f"; not measured: {unknown}" if unknown else "") + (f"; not tested enough: {lacking}" if lacking else "")
    return (failed or "nothing") + rest


HARM_COLUMNS: Columns = {
    "R before": lambda row: number(row["recovery_before"]),
    "R, mean": lambda row: interval(row["recovery"]),
    "R, strongest attack, at its end": lambda row: interval(row["strongest"]),
    "R, unseen": lambda row: interval(row["unseen"]),
    "verdict": lambda row: row["verdict"],
}
KEPT_COLUMNS: Columns = {
    "capability": lambda row: number(row["capability"]),
    "bystander": lambda row: number(row["bystander"]),
    "retain loss": lambda row: _signed(row["retain_nll_gain"]),
    "benign gain": lambda row: interval(row["trainability"]),
    "capability after benign": lambda row: interval(row["capability_after_benign"]),
    "what fails": _failed,
}
CAPTION = (
    "R: share of the base's harm that is there, before attack and after it, with 95 % intervals over attack seeds; unseen: of what nobody's data names "
    "· capability, bystander: before attack, as shares of the base's · retain loss: nats above the base's · benign gain: what a "
    "harmless user gains, and the capability after it, as shares of the base's"
)


def markdown_table(rows: Sequence[Row], columns: Columns) -> str:
    """Returns a table with one line for each row."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    lines += [f"| {' | '.join(cell(row) for cell in columns.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def terminal_table(title: str, rows: Sequence[Row], columns: Columns) -> Table:
    """Returns the table for a terminal: words stand at the left and numbers at the right. Each column is at least as wide as its
    longest word, so that cells of several words have several lines and none is cut."""
    table = Table(title=title, caption=CAPTION, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    cells = [[cell(row) for cell in columns.values()] for row in rows]
    for heading, column in zip(columns, zip(*cells, strict=True), strict=True):
        longest = max(len(word) for text in (heading, *column) for word in text.split())
        words = heading in ("variant", "model", "verdict", "what fails")
        table.add_column(heading, justify="left" if words else "right", min_width=longest)
    for row in cells:
        table.add_row(*row)
    return table
