"""Devices that simulate one attack together: all of them, or groups that share the attacks of an outer step."""

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
    """The devices that this one simulates an attack with.

    Args:
        rank (`int`):
            This device among them.
        size (`int`):
            How many they are.
        number (`int`, *optional*, defaults to `0`):
            This group among the others.
        groups (`int`, *optional*, defaults to `1`):
            How many groups there are.
        inside, across (`torch.distributed.ProcessGroup`, *optional*):
            The group, and the devices of its rank in all groups. `None` for a single group, which is all devices.
    """

    rank: int
    size: int
    number: int = 0
    groups: int = 1
    inside: dist.ProcessGroup | None = None
    across: dist.ProcessGroup | None = None

    def share(self, attacks: Iterable[T]) -> Iterator[T]:
        """Every so-manieth of the attacks, such that each is in one group."""
        return islice(attacks, self.number, None, self.groups)

    def gathered(self, records: list[Any]) -> list[Any]:
        """What the groups recorded of their shares, in the order of the attacks."""
        if self.groups == 1:
            return records
        shares: list[Any] = [None] * self.groups
        dist.all_gather_object(shares, records, self.across)
        return list(chain.from_iterable(zip(*shares, strict=True)))


def device_group(accelerator: Accelerator, groups: int, sharded: bool) -> DeviceGroup:
    """This device's of so many groups; `ValueError` where devices or the model cannot be divided so."""
    rank, devices = accelerator.process_index, accelerator.num_processes
    if groups == 1:
        return DeviceGroup(rank, devices)
    given = f"TARConfig has adversary_parallel_size={groups}"
    if sharded:
        raise ValueError(
            f"{given}, and FSDP2 shards the model, whose parts are attacked together. Leave it out, or launch with DDP."
        )
    if devices % groups:
        raise ValueError(f"{given}, which does not divide the number of devices, {devices}. Use a divisor of it.")
    mesh = init_device_mesh(accelerator.device.type, (groups, devices // groups), mesh_dim_names=("group", "device"))
    number, inner = mesh.get_coordinate()
    return DeviceGroup(inner, devices // groups, number, groups, mesh.get_group("device"), mesh.get_group("group"))
