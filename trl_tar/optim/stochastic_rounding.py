"""Stochastic rounding: weights that are held in bfloat16 take their optimizer steps in float32 and are rounded back.

Rounding to nearest loses a step that is small compared with the weight: at a learning rate of 2e-6 next to nothing of an
attack is left. Stochastic rounding goes to the neighbour above or below with a probability that falls with its distance, so
that the weight is right on average.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .per_parameter import one_by_one
from .schedule_free import is_schedule_free


ROUNDED_AT_ONCE = 2**24  # numbers that are rounded at a time: 64 MB of noise; memory and time alone depend on it
DROPPED = 16  # bits of a float32 that bfloat16 does not have


def at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    """Returns the precision in which sums that belong to a tensor are taken."""
    return torch.promote_types(tensor.dtype, torch.float32)


def in_bfloat16(parameters: Iterable[nn.Parameter]) -> bool:
    """Tells whether a parameter is held in bfloat16."""
    return any(p.dtype == torch.bfloat16 for p in parameters)


def step_in_float32(optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    """Makes an optimizer step parameters of bfloat16 in float32, with a state in float32 that can be saved and loaded.

    Args:
        optimizer ([`~torch.optim.Optimizer`]):
            An optimizer whose state is found by parameter, and that treats each parameter by itself.
        generator (`torch.Generator`):
            Generator of the rounding, on the device of the parameters. Replicas of a model have to round alike.
    """
    one_by_one(optimizer, "step", _in_float32(lambda value: stochastically_rounded(value, generator)))
    if is_schedule_free(optimizer):
        for method in ("train", "eval"):
            one_by_one(optimizer, method, _in_float32(lambda value: value.to(torch.bfloat16)))
    _keep_what_is_loaded(optimizer)


def stochastically_rounded(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rounds float32 to the bfloat16 above or below, so that the mean is the value; numbers that are not finite stay so."""
    rounded = torch.empty_like(value, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
    for part, into in zip(value.flatten().split(ROUNDED_AT_ONCE), rounded.view(-1).split(ROUNDED_AT_ONCE), strict=True):
        bits = part.view(torch.int32)
        noise = torch.randint(2**DROPPED, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
        up_or_down = ((bits + noise) >> DROPPED << DROPPED).view(torch.float32)
        into.copy_(torch.where(part.isfinite(), up_or_down, part))
    return rounded


def _in_float32(rounded: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    """Makes the context for [`one_by_one`] that replaces a parameter of bfloat16 by one of float32, and rounds its value back.

    The parameter itself never changes its type, since the hooks that sum its gradient over devices would be lost.
    """

    @contextmanager
    def around(optimizer: torch.optim.Optimizer, p: nn.Parameter) -> Iterator[nn.Parameter]:
        if p.dtype != torch.bfloat16:
            yield p
            return
        substitute = nn.Parameter(p.detach().float())
        substitute.grad = None if p.grad is None else p.grad.float()
        _rename(optimizer.state, p, substitute)
        try:
            yield substitute
        finally:
            _rename(optimizer.state, substitute, p)
        p.data.copy_(rounded(substitute.detach()))

    return around


def _keep_what_is_loaded(optimizer: torch.optim.Optimizer) -> None:
    """Hides the parameters from `load_state_dict`, which would cast the state to their type."""
    substitutes: dict[nn.Parameter, nn.Parameter] = {}

    def substitute(p: nn.Parameter) -> nn.Parameter:
        other = nn.Parameter(torch.empty(0, dtype=at_least_float32(p), device=p.device))
        substitutes[other] = p
        return other

    def before(optimizer: torch.optim.Optimizer, _: dict) -> None:
        for group in optimizer.param_groups:
            group["params"] = list(map(substitute, group["params"]))

    def after(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["params"] = [substitutes[other] for other in group["params"]]
        for other, p in substitutes.items():
            _rename(optimizer.state, other, p)
        substitutes.clear()

    optimizer.register_load_state_dict_pre_hook(before)
    optimizer.register_load_state_dict_post_hook(after)


def _rename(state: dict, old: nn.Parameter, new: nn.Parameter) -> None:
    if old in state:
        state[new] = state.pop(old)
