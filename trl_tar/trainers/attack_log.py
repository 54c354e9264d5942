"""What the simulated attacks of an outer step add to the training log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..adversaries.adversary import Adversary
from ..adversaries.diverged import AttackDiverged
from ..distributed.device_groups import DeviceGroup
from ..simulation.attacker_pool import Attacker
from ..simulation.restored import Attacked


TAMPER_RESISTANCE = "tamper_resistance_loss"  # name of L_TR in the log


@dataclass
class AttackRecord:
    """What one visit of an attacker adds to the log.

    Attributes:
        values (`list[tuple[str, float]]`):
            Names and numbers, of which the log has the means.
        evaluations (`list[tuple[int, float]]`):
            Age of the attack and L_TR in nats, wherever it was taken.
    """

    values: list[tuple[str, float]]
    evaluations: list[tuple[int, float]] = field(default_factory=list)


class AttackLog:
    """Collects a record of each attack.

    Args:
        adversaries (`Sequence[Adversary]`):
            A_train: the log has the share of attacks that each had.
        devices ([`DeviceGroup`]):
            Groups that share the attacks of an outer step.
        continued (`bool`):
            Log ages, for attacks that take several visits.
    """

    def __init__(self, adversaries: Sequence[Adversary], devices: DeviceGroup, continued: bool):
        self._adversaries, self._devices, self._continued = adversaries, devices, continued
        self._records: list[AttackRecord] = []

    @contextmanager
    def recorded(self, attacked: Attacked, attacker: Attacker) -> Iterator[None]:
        """Records the visit inside the block. An attack that diverges ends there, and what it gave to g_TR before stays."""
        age, diverged = attacker.age, 0.0
        try:
            yield
        except AttackDiverged:
            diverged = 1.0
        values = [("attacks_diverged", diverged)]  # the log averages these and the next to shares
        values += [(f"adversary/{a.name}", float(a.name == attacker.adversary.name)) for a in self._adversaries]
        if attacker.adversary.role == "benign":
            values += [(name, loss) for name, _, loss in attacked.evaluations]
            self._records.append(AttackRecord(values))
            return
        evaluations = [(at, loss) for name, at, loss in attacked.evaluations if name == TAMPER_RESISTANCE]
        for name, losses in (
            ("adversary_loss", attacked.losses),
            (TAMPER_RESISTANCE, [loss for _, loss in evaluations]),
        ):
            if losses:
                values += [(f"{name}/first", losses[0]), (f"{name}/last", losses[-1])]
        if self._continued:
            values.append(("attack_age", float(age + attacker.visit)))
            values += [(f"{TAMPER_RESISTANCE}/age_{_bucket(at)}", loss) for at, loss in evaluations]
        self._records.append(AttackRecord(values, evaluations))

    def taken(self) -> list[AttackRecord]:
        """The records of this outer step from all groups, in the order of the attacks; the next step begins without any."""
        records, self._records = self._records, []
        return self._devices.gathered(records)


def _bucket(age: int) -> int:
    """The largest power of two that is at most the age; 0 for θ itself."""
    return 1 << (age.bit_length() - 1) if age else 0
