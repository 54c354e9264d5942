"""Tensors that an attack does not read wait on the host while it runs: a device holds at most 20 bytes per parameter."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ..distributed.sharding import local
from .per_parameter import one_by_one


def host_like(tensor: torch.Tensor) -> torch.Tensor:
    """Allocates memory on the host for a tensor's value, pinned where a GPU reads it; of a sharded tensor, for this device's part."""
    part = local(tensor)
    room = torch.empty(part.shape, dtype=part.dtype, device="cpu", pin_memory=part.is_cuda)
    room.on_host = True  # for `is_on_host`
    return room


def is_on_host(tensor: torch.Tensor) -> bool:
    """Tells whether a tensor is memory of [`host_like`], also where host and device are one."""
    return "on_host" in vars(tensor)


def park(tensor: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Copies a tensor's value into memory of [`host_like`], and returns that.

    Nothing waits for a GPU, which does later work, such as fetching the value or using the tensor's memory again, after this
    copy. Whoever reads the room on the host calls [`wait_for_copies`] first."""
    part = local(tensor.detach())
    return room.copy_(part, non_blocking=part.is_cuda)


def wait_for_copies() -> None:
    """Waits until rooms on the host have their values."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Returns a copy of a tensor's value on the host."""
    return host_like(tensor).copy_(local(tensor.detach()))


class StateOnHost:
    """Keeps the state of an optimizer on the host, and fetches that of a parameter for its step.

    `load_state_dict` does not fill the rooms, since it casts the state to the device of the parameters.

    Args:
        optimizer ([`~torch.optim.Optimizer`]):
            An optimizer whose state is found by parameter and name, and that steps each parameter alone.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self._rooms: dict[tuple[torch.Tensor, str], torch.Tensor] = {}
        one_by_one(optimizer, "step", self._fetched)
        optimizer.register_state_dict_pre_hook(lambda optimizer: wait_for_copies())  # a checkpoint reads the rooms
        optimizer.register_load_state_dict_post_hook(self._park_all)

    def _park_all(self, optimizer: torch.optim.Optimizer) -> None:
        for p in optimizer.state:
            self._park(p)

    @contextmanager
    def _fetched(self, optimizer: torch.optim.Optimizer, p: nn.Parameter) -> Iterator[nn.Parameter]:
        state = optimizer.state[p]
        for name, value in state.items():
            if value is self._rooms.get((p, name)):  # not so where a state was loaded since
                state[name] = torch.empty_like(value, device=p.device).copy_(value, non_blocking=True)
        yield p
        self._park(p)

    def _park(self, p: torch.Tensor) -> None:
        state = self.optimizer.state[p]
        for name, value in state.items():
            if torch.is_tensor(value) and value.numel() > 1:  # counters stay where the optimizer wants them
                room = self._rooms.get((p, name))
                if room is None:
                    room = self._rooms[p, name] = host_like(value)
                if room is not value:
                    state[name] = park(value, room)
