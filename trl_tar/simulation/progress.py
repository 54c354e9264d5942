"""The state of an attack's optimizer and schedule, from one visit to the next."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ..distributed.sharding import local, sharded_like


@dataclass
class Progress:
    """Holds what an attack needs to go on, without copying a tensor. It is empty before the first visit.

    Attributes:
        states (`list[dict[str, Any]]`):
            The optimizer's state of each parameter, in the order of `Attacked.parameters`; of a sharded one, this device's part.
        groups (`list[dict[str, Any]]`):
            The optimizer's groups without their parameters.
        schedule (`dict[str, Any]`):
            The state of the schedule.
    """

    states: list[dict[str, Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)

    def hand_over(
        self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, scheduler: LRScheduler
    ) -> None:
        """Gives the state to a new optimizer and schedule, which change these tensors in place."""
        for p, state in zip(parameters, self.states, strict=True):
            optimizer.state[p] = {name: _sharded(value, p) for name, value in state.items()}
        for group, before in zip(optimizer.param_groups, self.groups, strict=True):
            group.update(before)
        scheduler.load_state_dict(self.schedule)

    def take(self, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer, scheduler: LRScheduler) -> None:
        """Takes the state of an optimizer and schedule that make no further step."""
        self.states = [{name: _part(value) for name, value in optimizer.state[p].items()} for p in parameters]
        self.groups = [
            {name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups
        ]
        self.schedule = scheduler.state_dict()


def _part(value: Any) -> Any:
    return local(value) if torch.is_tensor(value) else value


def _sharded(value: Any, p: nn.Parameter) -> Any:
    """The value, sharded as its parameter is where it has a number for each of the parameter's."""
    is_moment = torch.is_tensor(value) and value.dim() > 0 and value.shape == local(p).shape
    return sharded_like(value, p) if is_moment else value
