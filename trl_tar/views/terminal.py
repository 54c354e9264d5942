"""What a command says at its end: the models side by side, the verdict, and where the report is."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..report.report import Report
from .model_rows import model_rows
from .templating import plain
from .words import told


COLUMNS = {
    "harm\nbefore": "harm",
    "harm\nafter": "harm_after",
    "strongest\nattack": "worst",
    "capability\nbefore": "capability",
    "capability\nafter": "capability_after",
}


def models_table(report: Report) -> Table:
    """The model and its references, a row each: harm and capability, before and after attack, without the errors and intervals that
    would not fit into 80 columns."""
    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption="means over attacks and seeds; intervals are in the report"
    )
    table.add_column("\nmodel", no_wrap=True)
    for heading in COLUMNS:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in model_rows(report):
        table.add_row(row["label"], *(row[key].partition(" ")[0] for key in COLUMNS.values()))
    return table


def print_report(report: Report, folder: Path, console: Console | None = None) -> None:
    """Prints the table, what the verdict is and rests on, and where the page is."""
    console = console or Console()
    console.print(models_table(report))
    for sentence in told(report):
        console.print(escape(plain(sentence)), highlight=False, soft_wrap=True)
    console.print(f"Open {escape(plain(str(folder / 'report.html')))}", highlight=False, soft_wrap=True)
