"""Optimizer steps of weights that are held in bfloat16: taken in float32, and rounded back up or down by chance.

Rounding to nearest swallows a step that is small beside the weight: at a learning rate of 2e-6 next to nothing of an attack
is left. Rounded by chance, with the odds of its distance to both neighbours, the weight is right on average.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn

from .averaged_weights import is_schedule_free
from .one_by_one import one_by_one


DROPPED = 16  # bits of float32 that bfloat16 has not


def at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    """The precision to add up in what belongs to a tensor."""
    return torch.promote_types(tensor.dtype, torch.float32)


def in_bfloat16(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one of them is."""
    return any(p.dtype == torch.bfloat16 for p in parameters)


def step_in_float32(optimizer: torch.optim.Optimizer, seed: int = 0) -> "StochasticRounding":
    """Makes an optimizer step parameters of bfloat16 as if they were not."""
    rounding = StochasticRounding(optimizer.param_groups[0]["params"][0].device, seed)
    one_by_one(optimizer, "step", rounding.stepping)
    if is_schedule_free(optimizer):
        for method in ("train", "eval"):
            one_by_one(optimizer, method, lambda p: in_float32([p]))
    return rounding


def stochastically_rounded(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 → bfloat16: the neighbour above or below, such that the mean is the value; what is not finite stays so."""
    bits = value.contiguous().view(torch.int32)
    noise = torch.randint(2**DROPPED, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
    rounded = ((bits + noise) >> DROPPED << DROPPED).view(torch.float32)
    return torch.where(value.isfinite(), rounded, value).to(torch.bfloat16)


class StochasticRounding:
    """Lets an optimizer step parameters of bfloat16, whose state it makes in float32.

    Args:
        device (`torch.device`):
            Of the parameters.
        seed (`int`, *optional*, defaults to `0`):
            Of the rounding, apart from all other randomness: replicas of a model have to round alike.
    """

    def __init__(self, device: torch.device, seed: int = 0):
        self._generator = torch.Generator(device)
        self.reseed(seed)

    def reseed(self, seed: int) -> None:
        """Starts anew, for a run that is resumed to round as one without a stop."""
        self._generator.manual_seed(seed)

    def stepping(self, p: nn.Parameter) -> AbstractContextManager:
        """Around the step of one parameter."""
        return in_float32([p], lambda value: stochastically_rounded(value, self._generator))


@contextmanager
def in_float32(
    parameters: Iterable[nn.Parameter],
    rounded: Callable[[torch.Tensor], torch.Tensor] = lambda value: value.to(torch.bfloat16),
) -> Iterator[None]:
    """Those of them that are of bfloat16, and their gradients, in float32; rounded back on exit, to nearest by default."""
    low = [(p, p.data, p.grad) for p in parameters if p.dtype == torch.bfloat16]
    for p, value, gradient in low:
        p.grad = None
        p.data = value.float()
        p.grad = gradient if gradient is None else gradient.float()
    try:
        yield
    finally:
        for p, value, gradient in low:
            p.grad = None
            p.data = value.copy_(rounded(p.data))
            p.grad = gradient
