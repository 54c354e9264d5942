"""What modules inside a model return: read, or shifted, in its own forward pass."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def outputs_read(modules: Iterable[nn.Module]) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """Yields a dictionary that has the output of each module after a pass, of several the first.

    The block has to end before the backward pass, which runs checkpointed layers again."""
    found: dict[nn.Module, torch.Tensor] = {}

    def read(module: nn.Module, _: tuple, output: torch.Tensor | tuple) -> None:
        found[module] = output[0] if isinstance(output, tuple) else output

    hooks = [module.register_forward_hook(read) for module in modules]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def outputs_shifted(modules: Iterable[nn.Module], shifts: dict[nn.Module, torch.Tensor]) -> Iterator[None]:
    """Adds a tensor to the output of each module, of several to the first.

    Where `shifts` has none for a module yet, it gets zeros that require a gradient: that of the loss with respect to them is that
    with respect to the output. The block has to hold the backward pass too, which runs checkpointed layers again.

    Args:
        modules (`Iterable[torch.nn.Module]`):
            Modules that each run once in a forward pass.
        shifts (`dict[torch.nn.Module, torch.Tensor]`):
            What is added.
    """

    def shift(module: nn.Module, _: tuple, output: torch.Tensor | tuple) -> torch.Tensor | tuple:
        first, *others = output if isinstance(output, tuple) else (output,)
        if module not in shifts:
            shifts[module] = torch.zeros_like(first, requires_grad=True)
        first = first + shifts[module]
        return (first, *others) if isinstance(output, tuple) else first

    hooks = [module.register_forward_hook(shift) for module in modules]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
