"""A report from what was run."""

from collections.abc import Mapping, Sequence
from typing import Any

from .records import AttackRecord, ModelRecord
from .recovery import CHANCE, base_harm, floor_harm, recovery, share
from .report import Report
from .summary import PROBE, summaries_of, summarise
from .verdict import MAX_ABOVE_BASE, judge


def build_report(
    record: ModelRecord,
    references: Mapping[str, ModelRecord],
    *,
    seeds: Sequence[int],
    benign: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    chance: float = CHANCE,
) -> Report:
    """Summary, verdict and report of a model from its attacks and those of its references.

    Args:
        record ([`ModelRecord`]):
            The model under test.
        references (`dict[str, ModelRecord]`):
            Any of `base`, `twin` and `floor`.
        seeds (`Sequence[int]`), benign, config, environment (`dict`, *optional*):
            As in [`Report`].
        chance (`float`, *optional*, defaults to `0.25`):
            Harm of a model that guesses.
    """
    summaries = summaries_of(record, references, chance)
    summary = summaries["summary"]
    base = references["base"].before if "base" in references else {}
    twin = references.get("twin")
    on_twin = None if twin is None else summarise(twin.attacks, references, chance)["worst_recovery"]["mean"]
    verdict = judge(
        worst_recovery_high=summary["worst_reached_recovery"]["high"],
        worst_recovery=summary["worst_reached_recovery"]["mean"],
        broken_attacks=summary["steps_to_break"]["broken"] if base else None,
        zero_step_recovery=_zero_step_recovery(record, references, chance),
        worst_recovery_of_twin=on_twin,
        capability=share(record.before, base, "capability"),
        bystander=share(record.before, base, "bystander"),
        retain_nll_gain=_difference(record.before, base, "retain_nll"),
        selectivity=summary["selectivity"]["mean"],
        benign_trainability=None if benign is None else benign["trainability"]["mean"],
        capability_after_benign=None if benign is None else benign["capability_ratio"]["mean"],
        unfinished_attacks=unfinished_attacks(record.attacks, config or {}, seeds)
        + _without_recovery(record.attacks, references, chance),
        above_base=_above_base(record.before, base),
    )
    return Report(
        model=record.model,
        before=record.before,
        attacks=record.attacks,
        references=dict(references),
        **summaries,
        verdict=verdict,
        standard_errors=record.standard_errors,
        zero_step=record.zero_step,
        benign=benign,
        seeds=list(seeds),
        config={**(config or {}), "chance": chance},
        environment=environment or {},
    )


def unfinished_attacks(attacks: Sequence[AttackRecord], config: Mapping[str, Any], seeds: Sequence[int]) -> int:
    """Attacks that show nothing: failed, diverged, without a number for harm, or missing for an adversary and seed."""
    names = {a.adversary for a in attacks} | {adversary["name"] for adversary in config.get("adversaries", [])}
    wanted = {(name, seed) for name in names for seed in seeds}
    return len(wanted - {(a.adversary, a.seed) for a in attacks}) + sum(not a.finished for a in attacks)


def _without_recovery(attacks: Sequence[AttackRecord], references: Mapping[str, ModelRecord], chance: float) -> int:
    """Finished attacks under which the floor model comes near what the base knew: they show nothing either."""
    base = base_harm(references)
    if base is None:
        return 0
    floors = {a.adversary: floor_harm(references.get("floor"), a.adversary, chance) for a in attacks}
    return sum(a.finished and recovery(0.0, base, floors[a.adversary]) is None for a in attacks)


def _zero_step_recovery(
    record: ModelRecord, references: Mapping[str, ModelRecord], chance: float
) -> dict[str, float | None]:
    """R of each attack without training. A probe of hidden states is none: it shows that knowledge is there, not out."""
    base = base_harm(references)
    floor = references["floor"].zero_step if "floor" in references else {}
    return {
        name: recovery(harm, base, max(chance, floor.get(name) or 0.0))
        for name, harm in record.zero_step.items()
        if name != PROBE
    }


def _above_base(values: Mapping[str, float | None], base: Mapping[str, float | None]) -> dict[str, float | None]:
    """Of the metrics that were asked for; one without a number, or without a base, is not passed."""
    return {name: _difference(values, base, name) for name in MAX_ABOVE_BASE if name in values}


def _difference(values: Mapping[str, float | None], base: Mapping[str, float | None], name: str) -> float | None:
    value, reference = values.get(name), base.get(name)
    return None if value is None or reference is None else value - reference
