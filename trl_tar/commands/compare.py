"""`trl-tar compare`: reports side by side."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..leaderboard import COLUMNS, Leaderboard, compare
from ..wording import printable


SHOWN = ("model", "verdict", "harm_before", "common_harm", "worst_recovery", "capability_after")  # what fits a terminal


def compare_command(sources: Sequence[str], listed: Path | None, output: Path | None) -> None:
    """Prints the table, and writes the page where a folder is given. One source that cannot be read ends all: a board with
    a model left out would say something else."""
    board = compare(*sources, *([] if listed is None else read_list(listed)))
    _tell(board)
    if output is not None:
        print(board.save(output))


def read_list(file: Path) -> list[str]:
    """Its lines, without comments; `ValueError` where it cannot be read."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{str(file)!r} cannot be read ({error}). Give a text file with one model a line.") from error
    return [text for line in lines if (text := line.split("#")[0].strip())]


def _tell(board: Leaderboard) -> None:
    console = Console()
    for group in board.groups:
        table = Table(title=escape(printable(group.title)), title_justify="left")
        for column, key in COLUMNS.items():
            if key in SHOWN:
                table.add_column(column, overflow="fold")
        for row in group.rows:
            cells = row.cells()
            table.add_row(*(escape(printable(cells[key])) for key in SHOWN))
        console.print(table)
        for remark in group.remarks:
            console.print(f"[yellow]note[/] {escape(printable(remark))}", highlight=False, soft_wrap=True)
    if len(board.groups) > 1:
        console.print(
            "[yellow]note[/] These tables answer different questions: do not compare their numbers.", soft_wrap=True
        )
