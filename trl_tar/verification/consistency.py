"""Checks that a report agrees with itself, with its card and with this machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..environment import environment
from ..hub.evidence_folder import card_of
from ..report.build import judged_again
from ..report.older import stricter_today
from ..report.records import AttackRecord, attack_record
from ..report.recovery import CHANCE
from ..report.report import MAX_BYTES, SCHEMA_VERSION, Report
from ..views.card import DIGEST


# kind of the task → chance: one of four options is chosen, but an answer in words is not guessed
CHANCE_OF_TASK = {"knowledge": CHANCE, "refusal": 0.0}
DECIDE = ("torch", "transformers", "trl", "peft", "device")  # the parts of an environment that numbers can depend on


def differences_of_attacks(report: Report) -> Iterator[str]:
    """Yields a sentence for each thing in the report that does not follow from its attacks."""
    described = {(fields["name"], seed) for fields in report.config.get("adversaries", []) for seed in report.seeds}
    held = {(attack.adversary, attack.seed) for attack in report.attacks}
    missing = described - held
    if held - described:
        name, seed = min(held - described)
        yield f"The report has the attack {name!r} with seed {seed}, and does not say what it was."
    kind, chance = "" if report.task is None else report.task["kind"], report.config["chance"]
    if chance != CHANCE_OF_TASK.get(kind, chance):
        yield f"The report has chance {chance}, and a task of kind {kind!r} has {CHANCE_OF_TASK[kind]}: it was edited."
    for attack in _all_attacks(report):
        along = attack_record(attack.adversary, attack.seed, attack.trajectory)
        if (along.after, along.best) != (attack.after, attack.best):
            yield f"The attack {attack.adversary!r} with seed {attack.seed} ends otherwise than its trajectory: one was edited."
            break
    again = judged_again(report)
    differing = list(_not_following(report, again))
    if differing and missing:
        name, seed = min(missing)
        yield f"The report lacks the attack {name!r} with seed {seed}, which its {differing[0]} counts: it was removed."
    elif differing:
        yield f"The report's {differing[0]} does not follow from its attacks: one of the two was edited."


def _not_following(report: Report, again: Report) -> Iterator[str]:
    """Yields the names of the fields of a report that are others in the report that was computed again.

    A report of an older version had other rules for bounds and for what counts as measured: there, means are compared, and what
    its verdict calls passed."""
    older = report.schema_version != SCHEMA_VERSION
    for name in ("summary", "by_adversary"):
        found, recorded = getattr(again, name), getattr(report, name)
        if (_without_bounds(found) != _without_bounds(recorded)) if older else found != recorded:
            yield name
    passed = {gate.name for gate in report.verdict.gates if gate.passed} - stricter_today(report)
    forged = any(gate.name in passed for gate in again.verdict.failed)
    whole = report.verdict.resistant == all(gate.passed for gate in report.verdict.gates)
    if (forged or not whole) if older else again.verdict != report.verdict:
        yield "verdict"


def _without_bounds(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The summary, or summaries by name, without the bounds of its estimates."""
    return {
        name: _without_bounds(value) if isinstance(value, Mapping) else value
        for name, value in summary.items()
        if name not in ("low", "high")
    }


def _all_attacks(report: Report) -> Iterator[AttackRecord]:
    """Yields the attacks on the model and the references, and the trainings of the harmless user."""
    for record in (report, *report.references.values()):
        yield from record.attacks
    if report.benign is not None:
        yield from [*report.benign["base"], *report.benign["model"]]


def differences_of_card(file: Path, report: Report, sound: bool) -> tuple[list[str], list[str]]:
    """Problems and warnings about the card in the file.

    `sound` says that the report's own numbers are in order, so that a card can be made of them and compared."""
    if not file.is_file():
        return [], ["There is no card (README.md)."]
    if (size := file.stat().st_size) > MAX_BYTES:
        return [f"The card (README.md) has {size / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} of any."], []
    text = file.read_text(encoding="utf-8", errors="replace")
    named = DIGEST.search(text)
    if named is not None and named[1] != report.digest:
        return ["The card was written for another report: the digest that it names is not this one's."], []
    if sound and text != card_of(report):
        return [], [
            "The card differs from the one that the report gives here: it was edited by hand, or written by another version of "
            "trl-tar. Go by the report."
        ]
    return [], []


def differences_of_environment(report: Report) -> Iterator[str]:
    """Yields a sentence for each difference of this machine from the report's, and how much it matters."""
    for name, here in environment().items():
        reported = report.environment.get(name)
        if reported == here:
            continue
        matters = (
            "numbers may differ in their last digits, which attacks amplify"
            if name in DECIDE
            else "that should not change a number"
        )
        yield f"{name} is {here} here, and {reported} in the report: {matters}."
