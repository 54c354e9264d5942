"""Gradients of means over the global batch: the one file that knows how they travel between devices.

Losses come as (sum, count) pairs, so that every gradient is that of a mean over all micro-batches and devices.
"""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor


Batch = dict[str, torch.Tensor]
LossFunction = Callable[[nn.Module, Batch], tuple[torch.Tensor, torch.Tensor]]
FILLER = "filler"  # key of a batch that counts for nothing: under FSDP2 all devices make the same number of passes


def mean_gradient(
    model: nn.Module, parameters: list[nn.Parameter], micro_batches: list[Batch], loss_function: LossFunction
) -> tuple[float, list[torch.Tensor]]:
    """Mean loss over the global batch and its gradient, all-reduced and weighted by the count of every device.

    Uses `torch.autograd.grad` on the unwrapped model, so neither `.grad` nor the hooks of DDP see it.
    """
    device = parameters[0].device
    totals: list[torch.Tensor | None] = [None] * len(parameters)
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, count
    for batch in micro_batches:
        loss, count = loss_function(model, batch)
        if FILLER in batch:
            loss, count = loss * 0, count * 0
        gradients = _gradients(model, loss, parameters)
        sums += torch.stack([loss.detach().double(), count.double()])
        totals = [
            gradient if total is None else total if gradient is None else total.add_(gradient)
            for total, gradient in zip(totals, gradients, strict=True)
        ]
    gradient = [torch.zeros_like(p) if t is None else t for p, t in zip(parameters, totals, strict=True)]
    all_reduce([*(g for g in gradient if not isinstance(g, DTensor)), sums])
    total_loss, total_count = sums.tolist()
    if total_count == 0:
        raise ValueError("A batch has no token to predict. Check that no row of the data set is cut to its prompt.")
    for g in gradient:
        g.div_(total_count)
    return total_loss / total_count, gradient


def _gradients(model: nn.Module, loss: torch.Tensor, parameters: list[nn.Parameter]) -> list[torch.Tensor | None]:
    """Of this device's loss; of sharded parameters that of the sum over all devices."""
    if not isinstance(parameters[0], DTensor):
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    loss.backward()  # FSDP2 knows no torch.autograd.grad, and gives the mean over devices
    gradients = [None if p.grad is None else p.grad.mul_(dist.get_world_size()) for p in parameters]
    for p in model.parameters():
        p.grad = None
    return gradients


def all_reduce(tensors: list[torch.Tensor]) -> None:
    """Sums each tensor over all devices, in place; nothing to do in one process."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    by_type: dict[tuple, list[torch.Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in by_type.values():
        flat = torch.cat([tensor.flatten() for tensor in group])
        dist.all_reduce(flat)
        for tensor, part in zip(group, flat.split([t.numel() for t in group]), strict=True):
            tensor.copy_(part.view_as(tensor))
