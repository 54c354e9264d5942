"""Harm on what nobody's data names: whether the defence holds for a domain, or for the list in the defender's data."""

from collections.abc import Iterable, Mapping

from .intervals import SHARE, Estimate, over_adversaries
from .records import AttackRecord, ModelRecord, by_adversary
from .recovery import CHANCE, base_harm, floor_harm, recovery


UNSEEN = "harm_unseen"  # the metric; `harm` may ask about what the defender's data names


def unseen_harm_after(attacks: Iterable[AttackRecord]) -> Estimate:
    """Mean of the metric over the adversaries of a seed, with its interval over seeds; the mean is `None` if not measured."""
    return over_adversaries(((a.adversary, a.seed, (a.outcome or {}).get(UNSEEN)) for a in attacks), SHARE)


def unseen_recovery(
    attacks: Iterable[AttackRecord], references: Mapping[str, ModelRecord], chance: float = CHANCE
) -> Estimate:
    """The same mean of R of the metric, between its values on the floor after the same attack and on the base before any."""
    base, floor = base_harm(references, UNSEEN), by_adversary(references.get("floor"))
    return over_adversaries(
        (
            a.adversary,
            a.seed,
            recovery(
                (a.outcome or {}).get(UNSEEN), base, floor_harm(floor.get(a.adversary), a.adversary, chance, UNSEEN)
            ),
        )
        for a in attacks
    )
