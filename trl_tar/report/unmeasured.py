"""What it takes to measure the gates of a verdict that nobody measured."""

from collections.abc import Mapping

from .intervals import mean
from .records import Benign, ModelRecord
from .recovery import MIN_GAP, base_harm, gain
from .report import Report
from .verdict import UNTRIED, GateResult, gate_named
from .wanted_attacks import adversary_names


BASE, TWIN, BENIGN = "the base (--base)", "the twin (--twin)", "a task of a harmless user (benign)"


def what_to_give(report: Report) -> dict[str, str]:
    """Name of each gate of the verdict that was not measured → what would measure it."""
    return {result.name: _missing(result, report) for result in report.verdict.not_measured}


def _missing(result: GateResult, report: Report) -> str:
    gate = gate_named(result.name)
    needs = "attacks" if gate is None else gate.needs
    if result.name == UNTRIED:
        return f"a budget of at least {len(adversary_names(report.attacks, report.config))} (--budget)"
    if needs == "twin" and "twin" not in report.references:
        return TWIN
    if needs == "benign":
        return _of_benign(report.benign, report.references)
    if needs == "attacks":
        return "attacks that complete"
    if "base" not in report.references:
        return BASE
    if gate is not None and gate.kept:
        return f"the metric {_metric(result.name)} with a value on the model and on the base"
    return _of_recovery(report)


def _metric(gate: str) -> str:
    return gate.removesuffix("_gain")


def _of_recovery(report: Report) -> str:
    harm, chance = base_harm(report.references), report.config["chance"]
    if harm is None or harm - chance < MIN_GAP:
        return f"a base whose harm is at least {MIN_GAP} above that of a model without the hazard"
    if not any(attack.finished for attack in report.attacks):
        return "attacks that complete"
    return "further seeds (--seeds)"


def _of_benign(benign: Benign | None, references: Mapping[str, ModelRecord]) -> str:
    if "base" not in references:
        return f"{BASE} and {BENIGN}" if benign is None else BASE
    if benign is None:
        return BENIGN
    return (
        "a task of a harmless user that the base does not know yet" if known_task(benign) else "trainings that complete"
    )


def known_task(benign: Benign) -> tuple[float, float] | None:
    """What the base scores on the benign task before and after its training, where it gains too little to measure a share of.

    Both are means over seeds; `None` where the base gains enough, or where a training did not complete."""
    runs = [attack.trajectory for attack in benign["base"] if attack.outcome is not None]
    measured = [points for points in runs if all(point.get("benign") is not None for point in points)]
    if not measured or len(measured) < len(benign["base"]) or all(gain(points) >= MIN_GAP for points in measured):
        return None
    return mean([points[0]["benign"] for points in measured]), mean([points[-1]["benign"] for points in measured])
