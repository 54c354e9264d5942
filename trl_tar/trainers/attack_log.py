"""What the simulated attacks of an outer step add to the training log."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..adversaries.adversary import Adversary, AttackDiverged
from ..distributed.device_groups import DeviceGroup
from ..simulation.restored import Attacked


class AttackLog:
    """Collects a record of each attack.

    Args:
        adversaries (`Sequence[Adversary]`):
            A_train: the log has the share of attacks that each had.
        devices ([`DeviceGroup`]):
            Groups that share the attacks of an outer step.
    """

    def __init__(self, adversaries: Sequence[Adversary], devices: DeviceGroup):
        self._adversaries, self._devices = adversaries, devices
        self._records: list[dict[str, float]] = []

    @contextmanager
    def recorded(self, attacked: Attacked, adversary: Adversary) -> Iterator[None]:
        """Records the attack inside the block. One that diverges ends there, and what it gave to g_TR before stays."""
        record = {"attacks_diverged": 0.0}
        try:
            yield
        except AttackDiverged:
            record["attacks_diverged"] = 1.0
        for other in self._adversaries:  # the log averages these to shares
            record[f"adversary/{other.name}"] = float(other is adversary)
        for name, losses in [
            ("adversary_loss", attacked.losses),
            ("tamper_resistance_loss", attacked.tamper_resistance_losses),
        ]:
            if losses:
                record |= {f"{name}/first": losses[0], f"{name}/last": losses[-1]}
        self._records.append(record)

    def taken(self) -> list[dict[str, float]]:
        """The records of this outer step from all groups, in the order of the attacks; the next step begins without any."""
        records, self._records = self._records, []
        return self._devices.gathered(records)
