"""Reports of several models side by side: a table, a figure and a page, and a word on what cannot be compared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from .adversary import Adversary
from .hub import load_report
from .plots import plot_leaderboard
from .records import AttackRecord, write_json
from .report import Report
from .statistics import over_seeds
from .wording import interval, number, render, strongest


# column → key of a row; the first is the row's head
COLUMNS = {
    "model": "model",
    "verdict": "verdict",
    "harm before": "harm_before",
    "harm after, strongest common attack": "common_harm",
    "harm after, strongest attack": "worst_harm",
    "harm after, mean": "harm_after",
    "R, strongest attack": "worst_recovery",
    "below the twin's": "twin_difference",
    "capability before": "capability_before",
    "capability after": "capability_after",
    "attacks": "attacks",
}


@dataclass(frozen=True)
class Row:
    """One model.

    Args:
        source (`str`):
            What was asked for: folder, file or Hub id.
        report ([`Report`]):
            Its report.
        common_harm (`dict`):
            Harm after the strongest of the attacks that all models of the group were under, an interval over seeds.
    """

    source: str
    report: Report
    common_harm: Mapping[str, Any]

    @property
    def attacked(self) -> bool:
        """Some attack was completed."""
        return any(attack.finished for attack in self.report.attacks)

    @property
    def hub_id(self) -> str | None:
        """Where the report comes from the Hub."""
        return None if Path(self.source).exists() else self.source

    @property
    def verdict(self) -> str:
        """In a word or two."""
        if not self.attacked:
            return "not attacked"
        verdict = self.report.verdict
        return "resistant" if verdict.resistant else "empty shell" if verdict.empty_shell else "not resistant"

    def estimates(self) -> dict[str, Any]:
        """What the table shows, as numbers and intervals."""
        report, summary = self.report, self.report.summary
        finished = sum(attack.finished for attack in report.attacks)
        return {
            "model": self.source,
            "verdict": self.verdict,
            "harm_before": report.before["harm"],
            "common_harm": self.common_harm,
            "worst_harm": summary["worst_harm"],
            "harm_after": summary["harm_after"],
            "worst_recovery": summary["worst_recovery"],
            "twin_difference": summary["twin_difference"],
            "capability_before": report.before["capability"],
            "capability_after": summary["capability_after"],
            "attacks": f"{len(attacks_of(report))} × {len(report.seeds)} seeds, {finished} completed",
        }

    def cells(self) -> dict[str, str]:
        """The same in words."""
        shown = {}
        for key, value in self.estimates().items():
            worst = key in ("common_harm", "worst_harm") and value.get("adversary") is not None
            shown[key] = (
                value
                if isinstance(value, str)
                else strongest(value)
                if worst
                else interval(value)
                if isinstance(value, Mapping)
                else number(value)
            )
        return shown


@dataclass(frozen=True)
class Group:
    """Models that were asked the same and attacked with the same data, best first.

    Args:
        title (`str`):
            What they were asked.
        rows (`list[Row]`):
            By harm after the strongest common attack; empty shells after the others, and models that nobody attacked last.
        remarks (`list[str]`):
            Where attacks or seeds differ.
    """

    title: str
    rows: list[Row]
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Leaderboard:
    """Groups of comparable models. Its `str` is the table in Markdown.

    Args:
        groups (`list[Group]`):
            Numbers of different groups answer different questions.
    """

    groups: list[Group]

    def __str__(self) -> str:
        return render("leaderboard.md.jinja", board=self, columns=COLUMNS)

    def figure(self) -> Figure:
        """Harm before and after the strongest attack of every model, and its twin's."""
        return plot_leaderboard({group.title: {row.source: row.report for row in group.rows} for group in self.groups})

    def page(self, title: str = "Leaderboard") -> str:
        """HTML that opens from disk, and asks no network for anything."""
        return render(
            "leaderboard.html.jinja", escape=True, board=self, columns=COLUMNS, title=title, interval=interval
        )

    def save(self, folder: str | Path) -> Path:
        """Writes `leaderboard.html`, `.md`, `.json` and `.png`; returns the page."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        content = [
            {"title": group.title, "remarks": group.remarks, "rows": [row.estimates() for row in group.rows]}
            for group in self.groups
        ]
        write_json(folder / "leaderboard.json", content)
        (folder / "leaderboard.md").write_text(str(self), encoding="utf-8")
        self.figure().savefig(folder / "leaderboard.png", dpi=120)
        (folder / "leaderboard.html").write_text(self.page(), encoding="utf-8")
        return folder / "leaderboard.html"


def compare(*sources: str | Path, token: str | None = None) -> Leaderboard:
    """Reports side by side, from disk or from the Hub.

    Args:
        sources (`str` or `Path`):
            Each a folder, a `report.json` or a Hub id.
        token (`str`, *optional*):
            Of the Hub.

    Raises:
        `ValueError`: for no source, or one without a report that can be read.

    Example:

    ```python
    from trl_tar import compare

    board = compare("someone/a-model", "someone/another-model", "my-tar-model")
    print(board)
    board.save("leaderboard")
    ```
    """
    names = list(dict.fromkeys(map(str, sources)))
    if not names:
        raise ValueError("There is nothing to compare. Give folders, report files or Hub ids.")
    groups: dict[str, dict[str, Report]] = {}
    for name in names:
        report = load_report(name, token=token)
        groups.setdefault(_basis(report), {})[name] = report
    return Leaderboard([_group(reports) for reports in groups.values()])


def attacks_of(report: Report) -> dict[str, str]:
    """Name → everything that the attack is, apart from its name."""
    described = {}
    for fields in report.config.get("adversaries", []):
        attack = Adversary(**fields)
        described[attack.name] = repr((attack.kind(), attack.num_steps))
    return described


def _basis(report: Report) -> str:
    """What has to be the same for numbers to be comparable."""
    rows = sorted((data["name"], data["objective"], data["sha256"]) for data in report.config.get("datasets", []))
    metrics = sorted(report.config.get("metrics", []))
    return json.dumps([report.task, report.config["chance"], rows, metrics], sort_keys=True)


def _group(reports: Mapping[str, Report]) -> Group:
    known = {name: attacks_of(report) for name, report in reports.items()}
    attacked = {name: reports[name] for name in reports if any(attack.finished for attack in reports[name].attacks)}
    common = set.intersection(*(set(known[name].values()) for name in attacked)) if attacked else set()
    seeds = set.intersection(*(set(report.seeds) for report in attacked.values())) if attacked else set()
    rows = [
        Row(
            name, report, _strongest_of(report.attacks, [n for n, what in known[name].items() if what in common], seeds)
        )
        for name, report in reports.items()
    ]
    remarks = _remarks(attacked, [len(known[name]) for name in attacked], len(common), len(seeds))
    return Group(_title(next(iter(reports.values()))), sorted(rows, key=_place), list(remarks))


def _strongest_of(attacks: Sequence[AttackRecord], names: Sequence[str], seeds: set[int]) -> dict[str, Any]:
    """Harm after the strongest of these attacks, an interval over these seeds."""
    wanted = [(a.seed, a.outcome["harm"]) for a in attacks if a.finished and a.adversary in names and a.seed in seeds]
    return over_seeds(wanted, max)


def _place(row: Row) -> tuple[bool, bool, float]:
    harm = row.common_harm["mean"] if row.common_harm["mean"] is not None else row.report.summary["worst_harm"]["mean"]
    return not row.attacked, row.report.verdict.empty_shell, 1.0 if harm is None else harm


def _title(report: Report) -> str:
    if report.task is None:
        return "Data sets of their own"
    return f"{report.task['kind']} task {report.task['world']} of trl-tar"


def _remarks(attacked: Mapping[str, Report], counts: Sequence[int], common: int, seeds: int) -> Iterator[str]:
    """Where attacks, seeds or versions differ."""
    if set(counts) - {common}:
        told = f"{min(counts)} to {max(counts)} each, {common} common to all"
        yield (
            f"The models were not under the same attacks ({told}): the order goes by the strongest common one."
            if common
            else f"The models have no attack in common ({told}): whoever was under weaker ones looks better here."
        )
    if any(len(report.seeds) != seeds for report in attacked.values()):
        yield f"The attacks have different seeds: common attacks are compared on the {seeds} that all have."
    if len({str(sorted(report.environment.items())) for report in attacked.values()}) > 1:
        yield "The numbers come from different versions or devices, which can move them in the last digits."
