"""What fits in the memory that there is: on how many devices, and how large a batch."""

from dataclasses import dataclass, replace

from transformers import PretrainedConfig

from .cost import Cost
from .mode import Mode
from .plan import RESERVED, Plan, least, plan


SHORTEST = 16  # tokens of the shortest row that is looked at; a choice: less is no sentence


@dataclass(frozen=True)
class Room:
    """Memory there is.

    Args:
        device (`float`):
            Bytes of a device.
        host (`float`):
            Bytes on the host of a machine.
        devices_per_node (`int`):
            Devices of a machine at most.
    """

    device: float
    host: float
    devices_per_node: int

    def has(self, size: int) -> bool:
        """Tells whether a device has so many bytes, with the share that [`Plan.fits`] leaves."""
        return self.share_of(size) >= 1

    def share_of(self, size: int) -> float:
        """A device's bytes, without the share that [`Plan.fits`] leaves, in units of these."""
        return (1 - RESERVED) * self.device / size

    def holds(self, planned: Plan) -> bool:
        return planned.fits(self.device, self.host, self.devices_per_node)


def on_more_devices(config: PretrainedConfig, cost: Cost, mode: Mode, room: Room) -> list[Plan]:
    """The plan on the smallest power of two of devices, above those of the mode, on which it fits with FSDP2, if any.

    Each device has at least one row."""
    count = 2 ** mode.devices.bit_length()
    while count <= cost.batch_size:
        sharded = replace(mode, activation_checkpointing=True, devices=count)
        if room.has(least(config, cost, sharded)[0]) and room.holds(
            planned := plan(config, cost, sharded, pinned=True)
        ):
            return [planned]
        count *= 2
    return []


def largest(config: PretrainedConfig, cost: Cost, mode: Mode, room: Room) -> tuple[Cost, Plan] | None:
    """The largest batch that fits, by factors of two from that of `cost`, with its plan; `None` if nothing does.

    Rows become shorter, down to `SHORTEST` tokens, only where not even one for each device fits."""
    if not room.has(least(config, cost, mode)[0]):
        return None
    planned = plan(config, cost, mode, pinned=True)
    grows = room.holds(planned)
    while True:
        size = replace(cost, batch_size=2 * cost.batch_size) if grows else _smaller(cost, mode.devices)
        if size is None:
            return None
        other = plan(config, size, mode, pinned=True)
        if grows and not room.holds(other):
            return cost, planned
        cost, planned = size, other
        if not grows and room.holds(planned):
            return cost, planned


def _smaller(cost: Cost, devices: int) -> Cost | None:
    """Half the rows, or rows of half the tokens where each device has one; `None` where those would be too short."""
    if cost.batch_size >= 2 * devices:
        return replace(cost, batch_size=cost.batch_size // 2)
    return replace(cost, length=cost.length // 2) if cost.length >= 2 * SHORTEST else None
