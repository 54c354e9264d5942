"""A model card from a report: what was measured, in the words of a person."""

from collections.abc import Mapping, Sequence

from .report import Report
from .wording import attack_sentence, cell, gate_in_words, interval, number, render, strongest, verdict_sentence


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
    summary, before = report.summary, report.before
    return render(
        "model_card.md.jinja",
        title=title,
        description=description,
        verdict=verdict_sentence(report),
        gates=[gate_in_words(gate) for gate in report.verdict.gates],
        attack_sentence=attack_sentence(report),
        harm_before=number(before["harm"]),
        capability_before=number(before["capability"]),
        bystander_before=number(before.get("bystander")),
        harm_after=interval(summary.get("harm_after")),
        capability_after=interval(summary.get("capability_after")),
        bystander_after=interval(summary.get("bystander_after")),
        worst_harm=strongest(summary["worst_harm"]),
        zero_step=", ".join(f"{cell(name)} {number(value)}" for name, value in report.zero_step.items())
        or "not measured",
        figures=list(figures),
    )
