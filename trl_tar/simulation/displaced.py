"""A model beside its weights: θ plus a step along a direction, for passes with gradient."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import nn

from ..distributed.sharding import total_norm


@contextlib.contextmanager
def displaced(parameters: list[nn.Parameter], direction: Iterable[torch.Tensor], distance: float) -> Iterator[None]:
    """Holds parameters at θ + distance · direction; on exit, also by an exception, they are bitwise θ.

    Adding the step and taking it off again would round. A backward pass has to end inside the block.

    Args:
        parameters (`list[torch.nn.Parameter]`):
            The parameters, none of which is sharded.
        direction (`Iterable[torch.Tensor]`):
            A tensor in the shape of each. They are read one at a time, and none is kept.
        distance (`float`):
            Factor of the direction.
    """
    values = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=distance)
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, values, strict=True):
                p.copy_(value)


def stepped(
    parameters: list[nn.Parameter], gradient: list[torch.Tensor], step_size: float, normalised: bool = True
) -> contextlib.AbstractContextManager[None]:
    """Holds parameters at θ − α g / ‖g‖, with the norm of all of the gradient g together; not `normalised`, at θ − α g.

    Where g = 0, they stay at θ."""
    norm = total_norm(gradient).item() if normalised else 1.0
    return displaced(parameters, gradient, -step_size / norm if norm > 0 else 0.0)
