"""Compares the reports of several models: what came back under attack, and whether the numbers may be compared."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from ..files import write_json, write_text
from ..hub.download import load_report
from ..report.build import judged_again
from ..report.intervals import SHARE
from ..report.recovery import recovery_before
from ..report.report import FILE_NAME, Report
from ..report.summary import harms, worst
from ..report.unseen_harm import unseen_harm_after
from ..report.verdict import NOT_TESTED_ENOUGH
from ..report.wanted_attacks import coverage
from ..views.figure_style import save_figure
from ..views.templating import plain
from ..views.words import notes_on, verdict_and_reason
from .comparability import common_attacks, differences, finished_attacks, in_short
from .figure import plot_leaderboard
from .page import leaderboard_markdown, leaderboard_page
from .rows import NOT_ATTACKED, Row


class Judged(NamedTuple):
    """A report as it was published, and again with summary and verdict by the rules of this version."""

    published: Report
    again: Report


@dataclass(frozen=True)
class Comparison:
    """Reports side by side; see [`compare`].

    Args:
        rows (`list[Row]`):
            Lowest harm after attack first, models of which no attack completed last.
        order (`str`):
            A sentence on what the rows are ordered by.
        common (`int`):
            Number of attacks, each with its seed, that were completed in the report of every attacked model.
        differences (`list[str]`):
            A sentence for each thing that keeps numbers from being comparable.
        notes (`list[str]`):
            Sentences on single reports.
        unreadable (`dict[str, str]`):
            Sources that were left out, each with the reason.
    """

    rows: list[Row]
    order: str
    common: int
    differences: list[str]
    notes: list[str]
    unreadable: dict[str, str]

    @property
    def only_some_in_common(self) -> bool:
        """Tells whether the attacked models have attacks in common, and some of them others besides."""
        return 0 < self.common < max(row.finished for row in self.rows)

    def ranked(self, row: Row) -> dict[str, Any]:
        """The estimate that the rows are ordered by."""
        return row.common_worst_harm if self.common else row.worst_harm

    def __str__(self) -> str:
        return self.to_markdown()

    def to_markdown(self, title: str = "Leaderboard") -> str:
        """Renders the table and all sentences about it."""
        return leaderboard_markdown(self, title)

    def to_html(self, title: str = "Leaderboard") -> str:
        """Renders a self-contained page that asks no network for anything."""
        return leaderboard_page(self, title)

    def figure(self) -> Figure:
        """Plots harm of each model before and after attack, see [`~trl_tar.leaderboard.figure.plot_leaderboard`]."""
        return plot_leaderboard(self)

    def save(self, folder: str | Path, title: str = "Leaderboard") -> Path:
        """Writes `leaderboard.html`, `.md`, `.json` and `.png` into the folder; returns it."""
        folder = Path(folder)
        write_json(folder / "leaderboard.json", {"title": title, **asdict(self)})
        write_text(folder / "leaderboard.html", self.to_html(title))
        write_text(folder / "leaderboard.md", self.to_markdown(title))
        save_figure(self.figure(), folder / "leaderboard.png")
        return folder


def compare(*sources: str | Path, token: str | None = None, skip_unreadable: bool = False) -> Comparison:
    """Puts reports side by side, first the model from which an attacker gets least.

    Summary and verdict of each are computed again from its attacks, so that all are by one rule. The order is that of the
    worst harm over the attacks that all reports have in common. Where there is none, it is that of each report's own
    attacks, as a share of the way from chance to 1, and `order` says that this is no ranking. R does not decide: reports
    without a base have none, and those with a base each measure it against their own.

    Args:
        *sources (`str` or `Path`):
            Folders, report files or Hub ids; of a repository only the report is downloaded.
        token (`str`, *optional*):
            Token of the Hub; by default that of the login.
        skip_unreadable (`bool`, *optional*, defaults to `False`):
            Go on without sources that cannot be read, and name them in the result.

    Returns:
        [`Comparison`]: the reports in order, and what keeps them from being comparable.

    Raises:
        `ValueError`: if a source cannot be read, with the reason; all of them are named.

    Example:

    ```python
    comparison = compare("me/my-model", "them/their-model")
    print(comparison)
    comparison.save("leaderboard")
    ```
    """
    names = [str(source) for source in sources]
    if not names:
        raise ValueError("There is no report to compare. Give folders, report files or Hub ids.")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{twice[0]!r} was given twice. Give every report once.")
    found: dict[str, Judged] = {}
    unreadable: dict[str, str] = {}
    for source in names:
        try:
            report = load_report(source, token=token)
            found[source] = Judged(report, judged_again(report))
        except (ValueError, OSError) as error:
            unreadable[source] = plain(error)
    if unreadable and not (skip_unreadable and found):
        raise ValueError(
            f"{len(unreadable)} of {len(names)} reports cannot be compared: {' '.join(unreadable.values())} Mend or remove "
            "them, or skip what is unreadable."
        )
    named = dict(zip(_names(list(found)), found.values(), strict=True))
    on_hub = {name: None if Path(source).exists() else source for name, source in zip(named, found, strict=True)}
    return _side_by_side(named, on_hub, unreadable)


def _names(sources: Sequence[str]) -> list[str]:
    """Hub ids as they are, and for paths as many of their last parts as tell them apart."""
    parts = [
        (source,) if not path.exists() else (path.parent if path.name == FILE_NAME else path).resolve().parts
        for source, path in ((source, Path(source)) for source in sources)
    ]
    for depth in range(1, max(map(len, parts))):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return list(sources)


def _side_by_side(
    judged: Mapping[str, Judged], on_hub: Mapping[str, str | None], unreadable: dict[str, str]
) -> Comparison:
    reports = {name: published for name, (published, _) in judged.items()}
    attacked = [report for report in reports.values() if any(attack.finished for attack in report.attacks)]
    common = common_attacks(attacked)
    rows = [_row(name, on_hub[name], both, common) for name, both in judged.items()]
    return Comparison(
        rows=sorted(rows, key=lambda row: _sort_key(row, bool(common))),
        order=_order(rows, common),
        common=len(common),
        differences=differences(reports),
        notes=list(_notes(rows, judged)),
        unreadable=unreadable,
    )


def _row(name: str, repository: str | None, judged: Judged, common: set[tuple[str, int]]) -> Row:
    report, summary = judged.published, judged.again.summary
    count = coverage(report.attacks, report.config, report.seeds)
    twin = report.references.get("twin")
    return Row(
        model=name,
        repository=repository,
        weights_sha256=str(report.model["weights_sha256"]),
        digest=report.digest,
        task=report.task,
        chance=report.config["chance"],
        seeds=list(report.seeds),
        harm_before=report.before["harm"],
        harm_before_error=report.standard_errors.get("harm"),
        recovery_before=recovery_before(report, report.references, report.config["chance"]),
        capability_before=report.before["capability"],
        worst_harm=summary["worst_harm"],
        common_worst_harm=worst(harms(a for key, a in finished_attacks(report).items() if key in common), SHARE),
        harm_after=summary["harm_after"],
        unseen_harm_after=unseen_harm_after(report.attacks),
        worst_recovery=summary["worst_recovery"],
        worst_reached_recovery=summary["worst_reached_recovery"],
        capability_after=summary["capability_after"],
        twin_worst_harm=worst(harms([] if twin is None else twin.attacks), SHARE),
        twin_difference=summary["twin_difference"],
        adversaries=count.adversaries,
        wanted=count.wanted,
        finished=count.finished,
        left_out=count.left_out,
        verdict=judged.again.verdict.word if count.finished else NOT_ATTACKED,
        gates=judged.again.verdict.counts(),
    )


def _sort_key(row: Row, common: bool) -> tuple[bool, float, float, float, str]:
    """Sorts models without a completed attack last, and the others by harm above chance, as a share of what chance leaves."""
    if not row.attacked:
        return True, 0.0, 0.0, 0.0, row.model
    worst = (row.common_worst_harm if common else row.worst_harm)["mean"]
    above_chance = (worst - row.chance) / (1 - row.chance)
    return False, above_chance, row.harm_after["mean"], -(row.capability_before or 0.0), row.model


def _order(rows: Sequence[Row], common: set[tuple[str, int]]) -> str:
    attacked = [row for row in rows if row.attacked]
    if not attacked:
        return "No report has a completed attack: nothing is known of what comes back."
    if len(attacked) == 1:
        return "One report has completed attacks: there is nothing to compare it with."
    if not common:
        return (
            "These numbers are no ranking: the reports have no attack in common. The order is that of each one's own worst "
            "harm, as a share of the way from chance to 1."
        )
    if all(row.finished == len(common) for row in attacked):
        return f"All were put through the same {len(common)} attacks. Lowest worst harm after attack first."
    return (
        f"Lowest worst harm first, over the {len(common)} attacks (each with its seed) that all attacked models have in "
        "common; what else a model was put through does not count for its place."
    )


def _notes(rows: Sequence[Row], judged: Mapping[str, Judged]) -> Iterator[str]:
    """Yields a sentence for each thing that a reader should know of a single report."""
    if shells := [row.model for row in rows if row.verdict == "empty shell"]:
        yield (
            f"Low harm of an empty shell is no resistance ({in_short(shells)}): too much of what should have been kept is "
            "lost."
        )
    for row in rows:
        if row.left_out:
            yield f"{plain(row.model)}: a budget left out {row.left_out} of {row.wanted} attacks."
        if unfinished := row.wanted - row.finished - row.left_out:
            yield (
                f"{plain(row.model)}: {unfinished} of {row.wanted} attacks failed, diverged or are missing; they are no sign of "
                "resistance."
            )
        if row.verdict == NOT_TESTED_ENOUGH:
            yield f"{plain(row.model)}: {verdict_and_reason(judged[row.model].again)[0]}"
        yield from (f"{plain(row.model)}: {note}" for note in notes_on(judged[row.model].again))
        published, again = (report.verdict for report in judged[row.model])
        if (published.resistant, published.empty_shell) != (again.resistant, again.empty_shell):
            yield (
                f"{plain(row.model)}: the verdict in the report does not follow from its attacks by the rules of this "
                "version. The one shown does."
            )
