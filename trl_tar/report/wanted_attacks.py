"""The attacks that a report is about: those that its configuration describes, and those that were made."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..adversaries.adversary import Adversary
from .records import AttackRecord


class Coverage(NamedTuple):
    """How many of the wanted attacks show something: a budget leaves some out, and others fail or diverge.

    Args:
        adversaries (`int`):
            Adversaries whose attacks were made or wanted.
        wanted (`int`):
            Attacks, one per adversary and seed.
        finished (`int`):
            Attacks that completed with a number for harm.
    """

    adversaries: int
    wanted: int
    finished: int


def coverage(attacks: Sequence[AttackRecord], config: Mapping[str, Any], seeds: Sequence[int]) -> Coverage:
    """Counts the adversaries and attacks of a report."""
    count = len(adversary_names(attacks, config))
    return Coverage(count, count * len(seeds), sum(attack.finished for attack in attacks))


def unfinished_attacks(attacks: Sequence[AttackRecord], config: Mapping[str, Any], seeds: Sequence[int]) -> int:
    """Attacks that show nothing: failed, diverged, without a number for harm, or missing for an adversary and seed."""
    wanted = {(name, seed) for name in adversary_names(attacks, config) for seed in seeds}
    return len(wanted - {(a.adversary, a.seed) for a in attacks}) + sum(not a.finished for a in attacks)


def adversary_names(attacks: Sequence[AttackRecord], config: Mapping[str, Any]) -> set[str]:
    """Names of all adversaries, those whose attacks were made and those whose attacks were only wanted."""
    return {adversary["name"] for adversary in config.get("adversaries", [])} | {a.adversary for a in attacks}


def described_adversaries(config: Mapping[str, Any]) -> dict[str, Adversary]:
    """Name → adversary, for those that the configuration of a report describes, in its order."""
    return {fields["name"]: Adversary(**fields) for fields in config.get("adversaries", [])}
