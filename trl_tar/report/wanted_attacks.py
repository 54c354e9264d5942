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
        left_out (`int`):
            Attacks that the budget left out.
        untried (`int`):
            Adversaries among them that have no attack at all.
    """

    adversaries: int
    wanted: int
    finished: int
    left_out: int
    untried: int

    @property
    def unfinished(self) -> int:
        """Attacks that failed, diverged, have no number for harm, or are missing where no budget left them out."""
        return self.wanted - self.finished - self.left_out


def coverage(attacks: Sequence[AttackRecord], config: Mapping[str, Any], seeds: Sequence[int]) -> Coverage:
    """Counts the adversaries and attacks of a report.

    A budget makes every adversary's first attack, and then further seeds of those whose first one finished: of what is missing,
    only as much is its doing as it left out by that rule."""
    names, budget = adversary_names(attacks, config), config.get("budget")
    wanted = {(name, seed) for name in names for seed in seeds} | {(a.adversary, a.seed) for a in attacks}
    missing, tried = len(wanted) - len(attacks), {a.adversary for a in attacks}
    finished = sum(attack.finished for attack in attacks)
    if budget is None or budget >= len(wanted):
        return Coverage(len(names), len(wanted), finished, 0, 0)
    first = min(budget, len(names))
    with_more = {a.adversary for a in attacks if a.finished and a.seed in seeds[:1]}
    bought = min(budget, first + len(with_more) * len(seeds[1:]))
    return Coverage(len(names), len(wanted), finished, min(missing, len(wanted) - bought), len(names - tried))


def adversary_names(attacks: Sequence[AttackRecord], config: Mapping[str, Any]) -> set[str]:
    """Names of all adversaries, those whose attacks were made and those whose attacks were only wanted."""
    return {adversary["name"] for adversary in config.get("adversaries", [])} | {a.adversary for a in attacks}


def described_adversaries(config: Mapping[str, Any]) -> dict[str, Adversary]:
    """Name → adversary, for those that the configuration of a report describes, in its order."""
    return {fields["name"]: Adversary(**fields) for fields in config.get("adversaries", [])}
