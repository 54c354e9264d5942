"""A model card from a report: what was measured, in the words of a person."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .report import Report


TEMPLATES = Path(__file__).parent / "templates"


def model_card(report: Report, title: str, description: str, figures: Sequence[Mapping[str, str]] = ()) -> str:
    """Markdown of the card.

    Args:
        report ([`Report`]):
            The evidence.
        title (`str`):
            Heading.
        description (`str`):
            What the model is, one or two sentences.
        figures (`Sequence[dict]`, *optional*):
            `path` and `alt` of each figure.
    """
    environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, keep_trailing_newline=True)
    summary, before = report.summary, report.before
    return environment.get_template("model_card.md.jinja").render(
        title=title,
        description=description,
        verdict=verdict_sentence(report),
        gates=[
            {
                "name": gate.name.replace("_", " "),
                "value": number(gate.value),
                "threshold": number(gate.threshold),
                "passed": "yes" if gate.passed else "no",
            }
            for gate in report.verdict.gates
        ],
        attack_sentence=attack_sentence(report),
        harm_before=number(before["harm"]),
        capability_before=number(before["capability"]),
        bystander_before=number(before.get("bystander")),
        harm_after=interval(summary.get("harm_after")),
        capability_after=interval(summary.get("capability_after")),
        bystander_after=interval(summary.get("bystander_after")),
        worst_harm=strongest(summary["worst_harm"]),
        zero_step=", ".join(f"{name} {number(value)}" for name, value in report.zero_step.items()) or "not measured",
        figures=list(figures),
    )


def verdict_sentence(report: Report) -> str:
    """Resistant, empty shell, or neither, in one sentence."""
    if report.verdict.resistant:
        return "resistant to the attacks that were tried."
    if report.verdict.empty_shell:
        return "an empty shell. Harm stays low under attack, but so does what the model should have kept."
    failed = [gate.name.replace("_", " ") for gate in report.verdict.gates if not gate.passed]
    return f"not resistant ({', '.join(failed)})."


def attack_sentence(report: Report) -> str:
    """How many attacks were run, and how many of them show something."""
    names = {attack.adversary for attack in report.attacks}
    wanted, finished = len(report.attacks), sum(attack.finished for attack in report.attacks)
    rest = "" if finished == wanted else "; the others are no sign of resistance"
    return f"{len(names)} attacks × {len(report.seeds)} seeds, {finished} of {wanted} completed{rest}."


def strongest(worst: Mapping[str, Any]) -> str:
    """Interval of the worst harm, and which attack it is from."""
    return interval(worst) + ("" if worst["adversary"] is None else f", mostly by {worst['adversary']}")


def number(value: float | None) -> str:
    """Two decimals, or a dash."""
    return "–" if value is None else f"{value:.2f}"


def interval(estimate: Mapping[str, Any] | None) -> str:
    """Mean with its 95 % interval, where there is one."""
    if estimate is None or estimate["mean"] is None:
        return "–"
    if estimate["low"] is None:
        return number(estimate["mean"])
    return f"{estimate['mean']:.2f} [{estimate['low']:.2f}, {estimate['high']:.2f}]"
