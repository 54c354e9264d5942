"""The model card of a report: what was measured, for a reader, and metadata for the Hub."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from ..adversaries.adversary import Adversary
from ..adversaries.in_words import in_words
from ..papers import TAR_PAPER
from ..report.intervals import SHARE, over_adversaries
from ..report.older import by_todays_rules
from ..report.records import by_adversary
from ..report.report import Report
from ..report.summary import harms
from ..report.wanted_attacks import described_adversaries
from .model_rows import model_rows
from .templating import render
from .training_table import is_complete, not_tried, phase_settings
from .words import (
    attack_sentence,
    came_back_sentence,
    contamination_sentence,
    differences_sentence,
    gate_in_words,
    harm_in_words,
    interval,
    measured_in_words,
    notes_on,
    novelty_sentence,
    recovery_in_words,
    strongest,
    unseen_sentence,
    verdict_and_reason,
    zero_step_in_words,
)


TAGS = ["trl", "trl-tar", "tamper-resistance"]
TYPED = re.compile(r"[\w./~-]+")  # an id or path that a reader can paste into a shell
OWNED_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")  # a model's id, which names an owner; ids of data sets may lack one
BENCHMARK = "trl-tar/red-team"  # stands where the Hub asks for the data set of a metric
DIGEST = re.compile(r"Digest of the report: `([0-9a-f]{64})`")


def model_card(
    report: Report,
    title: str,
    description: str,
    figures: Sequence[Mapping[str, str]] = (),
    *,
    repository: str | None = None,
    license: str | None = None,
) -> str:
    """Renders the card as Markdown, with its metadata.

    Args:
        report ([`Report`]):
            The evidence.
        title (`str`):
            Heading.
        description (`str`):
            What the model is and what was done to it, two or three sentences that claim nothing of attacks: numbers follow.
        figures (`Sequence[dict]`, *optional*):
            `path` and `alt` of each figure.
        repository (`str`, *optional*):
            Hub id or folder that the card tells its reader to [`verify`].
        license (`str`, *optional*):
            Licence of the weights, as the Hub names it; by default the card has none.
    """
    phases = [] if report.training is None else report.training["phases"]
    digest, report = report.digest, by_todays_rules(report)
    return render(
        "model_card.md.jinja",
        metadata=metadata(report, title, license).to_yaml(),
        title=title,
        description=description,
        report=report,
        digest=digest,
        verdict=verdict_and_reason(report),
        gates=[gate_in_words(gate) for gate in report.verdict.gates],
        attack_sentence=attack_sentence(report),
        came_back=came_back_sentence(report),
        harm=harm_in_words(report),
        recovery=recovery_in_words(report),
        novelty=novelty_sentence(report),
        measured=measured_in_words(report),
        unseen=unseen_sentence(report),
        zero_step=zero_step_in_words(report),
        differences=differences_sentence(report),
        twin_is_base=_same_weights(report, "twin", "base"),
        models=model_rows(report),
        attacks=list(_attacks(report)),
        seen=training_adversaries(report) is not None,
        not_tried=not_tried(report),
        phases=[(phase["name"], _training_attacks(phase)) for phase in phases],
        settings=phase_settings(phases),
        complete=all(is_complete(phase) for phase in phases),
        contamination=contamination_sentence(report.config["contamination"], report.config.get("metrics", []))
        if "contamination" in report.config
        else None,
        notes=notes_on(report),
        strongest=strongest(report.summary["worst_harm"]),
        base_model=base_model_id(report),
        figures=list(figures),
        repository=repository if TYPED.fullmatch(repository or "") else None,
        citation=TAR_PAPER["citation"],
        license=license,
        interval=interval,
    )


def _same_weights(report: Report, *roles: str) -> bool:
    """Tells whether the report has all of these references, and they are one model."""
    references = [report.references[role] for role in roles if role in report.references]
    return len(references) == len(roles) and len({r.model["weights_sha256"] for r in references}) == 1


def unattacked_card(title: str, description: str, license: str | None = None, base: str | None = None) -> str:
    """Renders the card of a model without a report, which claims nothing. `base` is an adapter's base, a Hub id or folder."""
    data = ModelCardData(
        library_name="transformers" if base is None else "peft",
        license=license,
        tags=TAGS,
        base_model=base if base is not None and OWNED_HUB_ID.fullmatch(base) else None,
    )
    return render(
        "unattacked_card.md.jinja",
        metadata=data.to_yaml(),
        title=title,
        description=description,
        citation=TAR_PAPER["citation"],
    )


def metadata(report: Report, title: str, license: str | None) -> ModelCardData:
    """The metadata that the Hub reads: base model, tags, data sets and the metrics before and after attack."""
    return ModelCardData(
        library_name="peft" if "base_model" in report.model else "transformers",
        license=license,
        tags=TAGS,
        base_model=base_model_id(report),
        datasets=report.config.get("hub_datasets") or None,
        model_name=" ".join(re.sub(r"[^\w ,.:()/+=-]", " ", title).split()) or "model",  # a line within the metadata
        eval_results=[
            EvalResult(
                task_type="text-generation",
                dataset_type=BENCHMARK,
                dataset_name=_task_name(report),
                metric_type=name,
                metric_name=label,
                metric_value=_rounded(value),
            )
            for name, label, value in _metrics(report)
        ],
    )


def base_model_id(report: Report) -> str | None:
    """Hub id of what the model was made from: the recipe's base model, an adapter's base, or the reference, in this order."""
    known = [report.config.get("base_model"), report.model.get("base_model", {}).get("id")]
    if "base" in report.references:
        known.append(report.references["base"].model["id"])
    return next((name for name in known if isinstance(name, str) and OWNED_HUB_ID.fullmatch(name)), None)


def evaluation_results(report: Report) -> str:
    """The metrics of [`metadata`] as a file of `.eval_results/`, in YAML."""
    entries = [
        EvalResultEntry(
            dataset_id=BENCHMARK, task_id=name, value=_rounded(value), notes=f"{label}; {_task_name(report)}"
        )
        for name, label, value in _metrics(report)
    ]
    return yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True)


def training_adversaries(report: Report) -> list[dict[str, Any]] | None:
    """The attackers of A_train with all their fields; `None` where the report does not say how the model was trained."""
    if report.training is None:
        return None
    return [fields for phase in report.training["phases"] for fields in _attackers(phase)]


def _attackers(phase: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The adversaries of a phase without its honest users. Records from before there were any do not say who is one."""
    return [fields for fields in phase.get("adversaries", []) if fields.get("role", "attack") == "attack"]


def _task_name(report: Report) -> str:
    task = report.task
    return "attacks of the report" if task is None else f"{task['kind']} task {task['world']} of trl-tar"


def _rounded(value: float) -> float:
    """Four decimals, without the sign of a zero."""
    return round(value, 4) + 0.0


def _metrics(report: Report) -> Iterator[tuple[str, str, float]]:
    """Yields name, label and value of each metric that is known."""
    summary, before = report.summary, report.before
    for name, label, value in [
        ("harm_before_attack", "harm before attack", before["harm"]),
        ("harm_after_attack", "harm after attack, mean", summary["harm_after"]["mean"]),
        ("harm_after_strongest_attack", "harm after the strongest attack", summary["worst_harm"]["mean"]),
        ("recovery", "R, share of the base's harm that came back, mean", summary["recovery"]["mean"]),
        ("capability_before_attack", "held-out capability before attack", before["capability"]),
        ("capability_after_attack", "held-out capability after attack", summary["capability_after"]["mean"]),
        (
            "benign_trainability",
            "gain of a harmless user",
            None if report.benign is None else report.benign["trainability"]["mean"],
        ),
    ]:
        if value is not None:
            yield name, label, value


def _attacks(report: Report) -> Iterator[dict[str, str]]:
    """Yields each attack in words, whether training had simulated its kind, and harm after it on the model and on the twin."""
    trained_on = training_adversaries(report)
    kinds = None if trained_on is None else [_kind(Adversary(**fields)) for fields in trained_on]
    twin = by_adversary(report.references.get("twin"))
    for name, adversary in described_adversaries(report.config).items():
        on_twin = over_adversaries(harms(twin[name].attacks if name in twin else []), SHARE)
        yield {
            "name": name,
            **asdict(in_words(adversary)),
            "seen": "not known" if kinds is None else "yes" if _kind(adversary) in kinds else "no",
            "harm": interval(report.by_adversary[name]["harm_after"] if name in report.by_adversary else None),
            "twin": interval(on_twin),
        }


def _training_attacks(phase: Mapping[str, Any]) -> list[dict[str, str]]:
    """The adversaries of A_train of a phase in words, with the weight that each is drawn with."""
    adversaries = [Adversary(**fields) for fields in _attackers(phase)]
    return [{"name": a.name, **asdict(in_words(a)), "weight": f"{a.weight:g}"} for a in adversaries]


def _kind(adversary: Adversary) -> dict[str, Any]:
    """The adversary's kind without the names of its data sets, which are the attacker's own."""
    kind = adversary.kind()
    mixture = sorted((kind["mixture"] or {}).values())
    return kind | {
        "dataset": kind["dataset"] is not None,
        "first_dataset": kind["first_dataset"] is not None,
        "mixture": mixture,
    }
