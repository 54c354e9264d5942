"""Groups of devices that simulate an attack together, and share the attacks of an outer step among them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, TypeVar

import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh


T = TypeVar("T")


@dataclass(frozen=True)
class DeviceGroup:
    """The devices with which this device simulates an attack.

    Args:
        rank (`int`):
            Rank of this device in the group.
        size (`int`):
            Number of devices in the group.
        number (`int`, *optional*, defaults to `0`):
            Number of this group, from 0.
        groups (`int`, *optional*, defaults to `1`):
            Number of groups.
        inside, across (`torch.distributed.ProcessGroup`, *optional*):
            Processes of this group, and processes with this rank in all groups. `None` for a single group of all devices.
    """

    rank: int
    size: int
    number: int = 0
    groups: int = 1
    inside: dist.ProcessGroup | None = None
    across: dist.ProcessGroup | None = None

    def share(self, attacks: Iterable[T]) -> Iterator[T]:
        """The attacks of this group: those whose index is `number` modulo `groups`."""
        return islice(attacks, self.number, None, self.groups)

    def gathered(self, records: list[Any]) -> list[Any]:
        """The records of all groups, each of which has one for each attack of its share, in the order of the attacks."""
        if self.groups == 1:
            return records
        shares: list[Any] = [None] * self.groups
        dist.all_gather_object(shares, records, self.across)
        return list(chain.from_iterable(zip(*shares, strict=True)))


def device_group(accelerator: Accelerator, groups: int, sharded: bool) -> DeviceGroup:
    """The group of this device, of `groups` equal ones; `ValueError` for sharded models and numbers that do not divide."""
    rank, devices = accelerator.process_index, accelerator.num_processes
    if groups == 1:
        return DeviceGroup(rank, devices)
    setting = f"TARConfig has adversary_parallel_size={groups}"
    if sharded:
        raise ValueError(
            f"{setting}, and FSDP2 shards the model, whose parts are attacked together. Leave it out, or launch with DDP."
        )
    if devices % groups:
        raise ValueError(f"{setting}, which does not divide the number of devices, {devices}. Use a divisor of it.")
    mesh = init_device_mesh(accelerator.device.type, (groups, devices // groups), mesh_dim_names=("group", "device"))
    number, inner = mesh.get_coordinate()
    return DeviceGroup(inner, devices // groups, number, groups, mesh.get_group("device"), mesh.get_group("group"))
