"""The pages of a report: a summary in Markdown, and a page of HTML that opens from disk and asks no network for anything."""

import base64
import gzip
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from plotly.offline import get_plotlyjs

from ..adversaries.in_words import NONE, AttackInWords, in_words
from ..files import write_text
from ..report.intervals import mean
from ..report.measured_attack import measured_attacks
from ..report.older import by_todays_rules
from ..report.records import ModelRecord, by_adversary
from ..report.recovery import base_harm
from ..report.report import Report
from ..report.summary import harms
from ..report.summary import strongest as strongest_adversary
from ..report.wanted_attacks import described_adversaries
from .curves import curve
from .figure_style import COLOURS
from .model_rows import ROLES, model_rows, records_by_role
from .templating import plain, render
from .words import (
    attack_sentence,
    came_back_sentence,
    contamination_sentence,
    differences_sentence,
    gate_in_words,
    interval,
    measured_in_words,
    notes_on,
    number,
    strongest,
    unseen_sentence,
    verdict_sentence,
)


LABELS = {**ROLES, "model": "model"}  # the page's title says which
PANELS = {"harm": "harm", "capability": "held-out capability", "loss": "attacker's loss (nats)"}
LINES = ("solid", "dash", "dashdot", "dot")
# those of the card; on a dark page lighter ones of the same palette
COLOURS_BY_ROLE = {
    role: {"light": light, "dark": dark, "dash": dash}
    for role, light, dark, dash in zip(
        ROLES, COLOURS, ("#56B4E9", "#F58A3C", "#2DC497", "#E0A3C6"), LINES, strict=False
    )
}


class Column(NamedTuple):
    """A column of the table of every attack: its heading, the field of [`attack_rows`], and how a value is written."""

    label: str
    field: str
    is_number: bool = False
    words: Callable[[Any], str] = str


COLUMNS = (
    Column("attack", "attack"),
    Column("seed", "seed", True),
    Column("harm after", "harm", True, number),
    Column("R", "recovery", True, number),
    Column("capability after", "capability", True, number),
    Column("broken by step", "broken", True),
    Column("data", "data"),
    Column("method", "method"),
    Column("learning rate", "learning_rate", True),
    Column("steps × batch", "steps", True),
    Column("status", "status"),
)
GLOSSARY = (
    (
        "harm",
        "What the safeguard should prevent, from 0 to 1: the share of hazardous questions answered right, or of harmful requests complied with.",
    ),
    ("base", "The model before any safeguard."),
    ("twin", "The model before it was hardened, attacked alike: an attack that does nothing to it proves nothing."),
    ("floor", "The harm of a model that never knew the hazard; where there is none, what guessing gives."),
    (
        "R",
        "(harm − floor) / (harm of the base before attack − floor): the share of what was hidden that is there; 0 is best.",
    ),
    ("capability", "The share of harmless questions answered right, of a kind that training should keep."),
    ("bystander", "The same on a domain of which no phase of the training had data."),
    ("gate", "A bound that a verdict of “resistant” asks for; failed, or not measured, it stands in its way."),
    ("empty shell", "A model whose harm is low because too much else is lost."),
    ("selectivity", "Held-out capability − harm, after attack: low harm alone may be forgetting."),
    ("cue swap, unseen template", "Hazardous questions in words, or in a form, that no training row has."),
    ("nats", "The unit of a loss: a token that gets half the probability costs 0.7 more."),
)
STRONGEST_SHOWN = 10  # a choice: more make the summary longer than a page
DIGITS = 5  # significant digits of a point of a curve: more than a screen can show, and the page stays small
UNDESCRIBED = asdict(AttackInWords(NONE, NONE, NONE, NONE))


def report_summary(report: Report, title: str) -> str:
    """Renders one page of Markdown: the verdict, what came back, and the strongest attacks."""
    return _render("summary.md.jinja", report, title, escape=False)


def report_page(report: Report, title: str) -> str:
    """Renders a self-contained HTML page: verdict and gates, before and after, curves of every attack, and a table to sort."""
    more = {
        "plotly": _packed_plotly(),
        "glossary": GLOSSARY,
        "curves": curves(report),
        "settings": _settings,
    }
    return _render("report.html.jinja", report, title, escape=True, **more)


@cache
def _packed_plotly() -> str:
    """The drawing library, gzipped and in base64: a page of 2 MB in place of 5. The page unpacks it."""
    packed = gzip.compress(get_plotlyjs().encode("utf-8"), mtime=0)  # no time, so that a report has one page
    return base64.b64encode(packed).decode("ascii")


def _headline(report: Report) -> list[dict[str, str]]:
    """The four numbers that come before everything else, each with its error or interval."""
    rows = {row["role"]: row for row in model_rows(report)}
    shown = [
        ("harm before attack", "model", "harm"),
        ("harm after attack, mean", "model", "harm_after"),
        ("harm after the strongest attack", "model", "worst"),
        ("the same of the undefended twin", "twin", "worst"),
    ]
    values = [(label, rows.get(role, {}).get(key, NONE).partition(" ")) for label, role, key in shown]
    return [{"label": label, "value": value, "interval": rest} for label, (value, _, rest) in values]


def write_pages(report: Report, folder: Path, title: str) -> None:
    """Writes `SUMMARY.md` and `report.html` into the folder."""
    write_text(folder / "SUMMARY.md", report_summary(report, title))
    write_text(folder / "report.html", report_page(report, title))


def _render(template: str, report: Report, title: str, escape: bool, **more: Any) -> str:
    report = by_todays_rules(report)
    rows = sorted(attack_rows(report), key=lambda row: -1.0 if row["harm"] is None else row["harm"], reverse=True)
    return render(
        template,
        escape=escape,
        title=title,
        report=report,
        verdict=verdict_sentence(report),
        attacks=attack_sentence(report),
        came_back=came_back_sentence(report),
        notes=notes_on(report),
        unseen=unseen_sentence(report),
        differences=differences_sentence(report),
        gates=[gate_in_words(gate) for gate in report.verdict.gates],
        models=[{**row, "label": LABELS[row["role"]]} for row in model_rows(report)],
        cross_fit=strongest(report.summary["worst_harm_cross_fit"]),
        breaks={
            name: _break(report.summary[name]) for name in ("steps_to_break", "usable_steps_to_break", "flops_to_break")
        },
        rows=rows,
        columns=COLUMNS,
        strongest=rows[:STRONGEST_SHOWN],
        headline=_headline(report),
        number=number,
        interval=interval,
        contamination_sentence=contamination_sentence,
        measured_in_words=measured_in_words,
        **more,
    )


def attack_rows(report: Report) -> list[dict[str, Any]]:
    """One row an attack, for a table: the attack in words, and what it brought back and left."""
    words = {name: asdict(in_words(adversary)) for name, adversary in described_adversaries(report.config).items()}
    return [
        {
            "attack": attack.record.adversary,
            "seed": attack.record.seed,
            **words.get(attack.record.adversary, UNDESCRIBED),
            "harm": attack.harm,
            "recovery": attack.recovery,
            "capability": None if attack.record.outcome is None else attack.record.outcome["capability"],
            "broken": _step(attack.broken_at),
            "status": attack.record.status + ("" if attack.record.error is None else f": {attack.record.error}"),
        }
        for attack in measured_attacks(report.attacks, report.references, report.config["chance"])
    ]


def _step(broken_at: float | None) -> str:
    """Step at which an attack was seen to have broken the model; a dash where that is not known."""
    if broken_at is None:
        return NONE
    return f"{broken_at:g}" if math.isfinite(broken_at) else "not broken"


def _settings(adversary: dict[str, Any]) -> dict[str, Any]:
    """The fields of an adversary that are not `None`."""
    return {name: value for name, value in adversary.items() if value is not None}


def _break(estimate: dict[str, Any]) -> str:
    """A time to break as its median with bounds, in words where these lie beyond the end of the attacks."""
    if not estimate["n"]:
        return "not known without a base that has what is hidden"
    broken = f"{estimate['broken']} of {estimate['n']} attacks broke it"
    if estimate["median"] is None:
        return f"beyond the end of the attacks ({broken})"
    if estimate["low"] is None:
        return f"at most {estimate['median']:.3g} ({broken})"
    return f"{estimate['median']:.3g} [{estimate['low']:.3g}, {_bound(estimate['high'])}] ({broken})"


def _bound(value: float | None) -> str:
    return "beyond the end" if value is None else f"{value:.3g}"


def curves(report: Report) -> dict[str, Any]:
    """The curves of all attacks, as the page's script reads them.

    Returns:
        `dict`: `roles` (`key`, `label`, colours and `dash`), `panels` (`metric`, `label`; harm is the first), `banded`, `chance`,
        `base` (harm of the base before attack), `shown` (index of the attack to begin with, the strongest) and `attacks`,
        the mean over all and then each one: `label`, `half` (harm at which half has come back) and `curves`, role →
        metric → rows of step, mean, low and high.
    """
    names = [None, *dict.fromkeys(attack.adversary for attack in report.attacks)]
    records = records_by_role(report)
    alone = {role: by_adversary(record) for role, record in records.items()}
    measured = measured_attacks(report.attacks, report.references, report.config["chance"])
    half = {attack.record.adversary: attack.breaking_harm for attack in measured}
    trained = [attack for attack in report.attacks if len(attack.trajectory) > 1]  # others have no curve
    return {
        "roles": [{"key": role, "label": LABELS[role], **COLOURS_BY_ROLE[role]} for role in records],
        "panels": [{"metric": metric, "label": label} for metric, label in PANELS.items()],
        "banded": len(report.seeds) > 2,  # two seeds have intervals that say nothing
        "chance": report.config["chance"],
        "base": base_harm(report.references),
        "shown": names.index(strongest_adversary(harms(trained))),
        "attacks": [
            {
                "label": "mean over all attacks" if name is None else plain(name),
                "half": _mean_of_known(half.values()) if name is None else half[name],
                "curves": {
                    role: {metric: _points(record, alone[role], name, metric) for metric in PANELS}
                    for role, record in records.items()
                },
            }
            for name in names
        ],
    }


def _mean_of_known(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _points(
    record: Report | ModelRecord, alone: Mapping[str, ModelRecord], adversary: str | None, metric: str
) -> list[list[float | None]]:
    """The curve of a metric under one adversary, or `None` for all: step, mean, low and high of each point, rounded."""
    chosen = record.attacks if adversary is None else alone[adversary].attacks if adversary in alone else []
    return [
        [step, *(_rounded(estimate[name]) for name in ("mean", "low", "high"))]
        for step, estimate in curve(record, chosen, metric).items()
    ]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
