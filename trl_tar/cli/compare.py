"""`trl-tar compare`: the table in the terminal, and the page."""

from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ..leaderboard.comparison import Comparison, compare
from ..views.templating import plain
from ..views.words import gates_in_short, interval, number


def compare_command(
    sources: list[str], listed: Path | None = None, output: Path | None = None, skip_unreadable: bool = False
) -> Comparison:
    """Prints what [`compare`] finds, and writes it into a folder.

    Args:
        sources (`list[str]`), skip_unreadable (`bool`, *optional*, defaults to `False`):
            As in [`compare`].
        listed (`Path`, *optional*):
            File with further sources, one a line; what follows a `#` at the start of a line is a comment.
        output (`Path`, *optional*):
            Folder of the page, table, rows and figure.
    """
    found = compare(*sources, *([] if listed is None else read_list(listed)), skip_unreadable=skip_unreadable)
    console = Console()
    console.print(comparison_table(found))
    for sentence in [found.order, *found.differences, *found.notes]:
        console.print(escape(plain(sentence)), highlight=False, soft_wrap=True)
    for source, reason in found.unreadable.items():
        console.print(
            f"[yellow]left out[/] {escape(plain(source))}: {escape(plain(reason))}", highlight=False, soft_wrap=True
        )
    if output is not None:
        page = found.save(output) / "leaderboard.html"
        console.print(f"Written: {escape(str(page))}", highlight=False, soft_wrap=True)
    return found


def read_list(file: Path) -> list[str]:
    """Lines of a file that name something."""
    if not file.is_file():
        raise ValueError(f"`--list` is {str(file)!r}, which is no file. Give one with a source on each line.")
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"`--list` is {str(file)!r}, which is not UTF-8 ({error}). Give a text file with a source on each line."
        ) from error
    return [line for line in lines if line and not line.startswith("#")]


def comparison_table(comparison: Comparison) -> Table:
    """The most telling columns, for the terminal; the page has all."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("\nmodel", overflow="fold")
    for column in ("harm\nbefore", "worst harm\nafter", "R before,\nworst at end", "capability\nbefore, after"):
        table.add_column(column, justify="right", overflow="fold")
    common = comparison.only_some_in_common
    if common:
        table.add_column("worst harm,\ncommon attacks", justify="right", overflow="fold")
    table.add_column("\nverdict", overflow="fold")
    for row in comparison.rows:
        table.add_row(
            escape(plain(row.model)),
            number(row.harm_before),
            interval(row.worst_harm),
            f"{number(row.recovery_before)}, {number(row.worst_recovery['mean'])}",
            f"{number(row.capability_before)}, {number(row.capability_after['mean'])}",
            *([interval(row.common_worst_harm)] if common else []),
            f"{row.verdict}\n{gates_in_short(row.gates)}" if row.attacked else row.verdict,
        )
    return table
