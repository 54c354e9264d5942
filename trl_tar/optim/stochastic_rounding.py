"""Optimizer steps of weights that are held in bfloat16: taken in float32, and rounded back up or down by chance.

Rounding to nearest swallows a step that is small beside the weight: at a learning rate of 2e-6 next to nothing of an attack
is left. Rounded by chance, with the odds of its distance to both neighbours, the weight is right on average.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from .per_parameter import one_by_one
from .schedule_free import is_schedule_free


CHUNK = 2**24  # numbers that are rounded at a time
DROPPED = 16  # bits of float32 that bfloat16 has not


def at_least_float32(tensor: torch.Tensor) -> torch.dtype:
    """The precision to add up in what belongs to a tensor."""
    return torch.promote_types(tensor.dtype, torch.float32)


def in_bfloat16(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether one of them is."""
    return any(p.dtype == torch.bfloat16 for p in parameters)


def step_in_float32(optimizer: torch.optim.Optimizer, generator: torch.Generator) -> None:
    """Makes an optimizer step, and load the state of, parameters of bfloat16 as if they were not.

    Args:
        optimizer ([`~torch.optim.Optimizer`]):
            One whose state is found by parameter, and that treats each parameter by itself.
        generator (`torch.Generator`):
            Of the rounding, on the device of the parameters. Replicas of a model have to round alike.
    """
    one_by_one(optimizer, "step", _in_the_place_of(lambda value: stochastically_rounded(value, generator)))
    if is_schedule_free(optimizer):
        for method in ("train", "eval"):
            one_by_one(optimizer, method, _in_the_place_of(lambda value: value.to(torch.bfloat16)))
    _keep_what_is_loaded(optimizer)


def stochastically_rounded(value: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """float32 → bfloat16: the neighbour above or below, such that the mean is the value; what is not finite stays so."""
    rounded = torch.empty_like(value, dtype=torch.bfloat16, memory_format=torch.contiguous_format)
    for part, into in zip(value.flatten().split(CHUNK), rounded.view(-1).split(CHUNK), strict=True):
        bits = part.view(torch.int32)
        noise = torch.randint(2**DROPPED, bits.shape, generator=generator, dtype=torch.int32, device=bits.device)
        up_or_down = ((bits + noise) >> DROPPED << DROPPED).view(torch.float32)
        into.copy_(torch.where(part.isfinite(), up_or_down, part))
    return rounded


def _in_the_place_of(rounded: Callable[[torch.Tensor], torch.Tensor]) -> Callable:
    """For [`one_by_one`]: a parameter in float32 for one of bfloat16, which takes its value, rounded, in the end.

    The parameter itself never changes its type: the hooks that sum its gradient over devices would be lost.
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
    """`load_state_dict` casts the state to the type of the parameters: let it see others."""
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
