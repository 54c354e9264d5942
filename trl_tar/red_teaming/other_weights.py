"""A model whose weights are held in another form while an attack trains it, and as they were found after it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from .weight_edits import matrices


class Product(nn.Module):
    """A matrix as the product of several, which are equally long at first: U Σ^{1/n}, Σ^{1/n}, …, Σ^{1/n} Vᵀ with W = U Σ Vᵀ.

    Args:
        count (`int`):
            Number n of factors, at least 2.
    """

    def __init__(self, count: int):
        super().__init__()
        self.count = count

    def forward(self, *factors: torch.Tensor) -> torch.Tensor:
        """The product, of the matrix's own shape."""
        return torch.linalg.multi_dot(factors)

    def right_inverse(self, weight: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Factors whose product is the matrix, to rounding."""
        u, s, vh = torch.linalg.svd(weight, full_matrices=False)
        root = s ** (1 / self.count)
        middle = [torch.diag(root) for _ in range(self.count - 2)]
        return (u * root).contiguous(), *middle, (root[:, None] * vh).contiguous()


@contextmanager
def as_products(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Makes every linear layer but the head a chain of `count`, without a change of what it computes; multiplied out on exit.

    Gradient descent on a product takes other steps than on the matrix, with which it gets past a defence that slows down the
    matrix's own (https://huggingface.co/papers/2602.18868)."""
    layers = [model.get_submodule(name.removesuffix(".weight")) for name, _ in matrices(model)]
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", Product(count))
    try:
        yield
    finally:
        for layer in layers:
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


@contextmanager
def in_bf16(model: PreTrainedModel) -> Iterator[None]:
    """Holds the weights, and with them the optimizer's state, in bfloat16; on exit they are float32 again, with bfloat16's values."""
    _cast(model, torch.bfloat16)
    try:
        yield
    finally:
        _cast(model, torch.float32)


def _cast(model: PreTrainedModel, dtype: torch.dtype) -> None:
    for p in model.parameters():  # no buffers: transformers keeps the frequencies of positions in float32 too
        p.data = p.data.to(dtype)
