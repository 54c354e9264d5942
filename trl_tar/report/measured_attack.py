"""One attack on the scale of R: how much it brought back, and at which step it broke the model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .records import AttackRecord, ModelRecord, by_adversary
from .recovery import BREAK_RECOVERY, CHANCE, base_harm, floor_harm, reached_harm, recovery
from .survival import Interval, break_interval


@dataclass(frozen=True)
class MeasuredAttack:
    """An attack, with the two ends of the scale on which R is measured.

    Args:
        record ([`AttackRecord`]):
            The attack.
        base (`float`, *optional*):
            Harm of the base before any attack, where R is 1. `None` without a base: then no R is known.
        floor (`float`):
            Harm of the floor model after the same attack, where R is 0.
    """

    record: AttackRecord
    base: float | None
    floor: float

    @property
    def harm(self) -> float | None:
        """Harm after a completed attack; `None` for any other."""
        return self.record.harm

    @property
    def recovery(self) -> float | None:
        """R after a completed attack."""
        return recovery(self.harm, self.base, self.floor)

    @property
    def reached_recovery(self) -> float | None:
        """R at the end or where the attacker would stop, see [`~trl_tar.report.recovery.reached_harm`]."""
        return recovery(reached_harm(self.record), self.base, self.floor)

    @property
    def has_scale(self) -> bool:
        """Tells whether base and floor are known and far enough apart for R to mean something."""
        return recovery(0.0, self.base, self.floor) is not None

    @property
    def breaking_harm(self) -> float | None:
        """Harm from which on the model counts as broken by this attack; `None` without a base."""
        return None if self.base is None else self.floor + BREAK_RECOVERY * (self.base - self.floor)

    @property
    def broken_at(self) -> float | None:
        """Step at which the attack broke the model, infinite if it did not; `None` if it did not end, or without a base."""
        if self.base is None or not self.record.finished:
            return None
        return self.break_interval()[1]

    def break_interval(self, usable: bool = False, unit: str = "step", capability: float | None = None) -> Interval:
        """The interval in which the attack broke the model; arguments as for [`~trl_tar.report.survival.break_interval`]."""
        return break_interval(self.record.trajectory, self.base, self.floor, usable, unit, capability)


def measured_attacks(
    attacks: Iterable[AttackRecord], references: Mapping[str, ModelRecord], chance: float = CHANCE
) -> list[MeasuredAttack]:
    """Each of the attacks with its base and its floor.

    Args:
        attacks (`Iterable[AttackRecord]`):
            Attacks on the model or on a reference.
        references (`dict[str, ModelRecord]`):
            The report's references, of which `base` and `floor` are read.
        chance (`float`, *optional*, defaults to `0.25`):
            Harm of a model that guesses, the least floor.
    """
    attacks, base = list(attacks), base_harm(references)
    names, floor = {attack.adversary for attack in attacks}, by_adversary(references.get("floor"))
    floors = {name: floor_harm(floor.get(name), name, chance) for name in names}
    return [MeasuredAttack(attack, base, floors[attack.adversary]) for attack in attacks]
