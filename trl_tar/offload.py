"""What an attack does not read waits on the host while it runs, so that a device holds 20 bytes per parameter at most."""

from typing import Any

import torch

from .sharding import local


def host_like(tensor: torch.Tensor) -> torch.Tensor:
    """Memory on the host for a tensor's value (of a sharded one, of this device's part), pinned where a GPU reads it."""
    part = local(tensor)
    room = torch.empty(part.shape, dtype=part.dtype, device="cpu", pin_memory=part.is_cuda)
    room.on_host = True  # what a ledger tells it by, where host and device are one
    return room


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy of a tensor's value on the host."""
    return host_like(tensor).copy_(local(tensor.detach()))


class StateOnHost:
    """Keeps the state of an optimizer on the host but for the time of its step.

    Moved by hooks on its step: what `load_state_dict` is given, it would cast to the device of the parameters.

    Args:
        optimizer ([`~torch.optim.Optimizer`]):
            Any whose state is found by parameter and name.
    """

    def __init__(self, optimizer: torch.optim.Optimizer):
        self.optimizer = optimizer
        self._rooms: dict[tuple[torch.Tensor, str], torch.Tensor] = {}
        optimizer.register_step_pre_hook(self._fetch)
        optimizer.register_step_post_hook(self.park)

    def park(self, *_: Any) -> None:
        """Moves the state to the host."""
        for p, state in self.optimizer.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.numel() > 1:  # counters stay where the optimizer wants them
                    room = self._rooms.get((p, name))
                    if room is None:
                        room = self._rooms[p, name] = host_like(value)
                    if room is not value:
                        state[name] = room.copy_(value)

    def _fetch(self, *_: Any) -> None:
        for (p, name), room in self._rooms.items():
            if self.optimizer.state[p].get(name) is room:  # not so where a state was loaded since
                value = torch.empty_like(room, device=p.device)
                self.optimizer.state[p][name] = value.copy_(room, non_blocking=True)
