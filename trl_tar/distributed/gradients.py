"""Gradients of means over the global batch: the one file that knows how they travel between devices.

Losses come as (sum, count) pairs, so that every gradient is that of a mean over all micro-batches and devices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor


Batch = dict[str, torch.Tensor]
LossFunction = Callable[[nn.Module, Batch], tuple[torch.Tensor, torch.Tensor]]
BUCKET = 2**24  # numbers that are sent at a time, or one tensor
FILLER = "filler"  # key of a batch that counts for nothing: under FSDP2 all devices make the same number of passes


def mean_gradient(
    model: nn.Module,
    parameters: list[nn.Parameter],
    micro_batches: list[Batch],
    loss_function: LossFunction,
    group: dist.ProcessGroup | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Gradient of the mean loss over the batch of all devices (of `group`), all-reduced and weighted by their counts.

    Uses `torch.autograd.grad` on the unwrapped model, so neither `.grad` nor the hooks of DDP see it. Nothing waits for the
    device: the loss comes as the pair of its sum and count, for [`means`].
    """
    device = parameters[0].device
    totals: list[torch.Tensor | None] = [None] * len(parameters)
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss, count
    for batch in micro_batches:
        with _alone_required(model, parameters):
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
    all_reduce([*(g for g in gradient if not isinstance(g, DTensor)), sums], group)
    for g in gradient:
        g.div_(sums[1])
    return sums, gradient


def consumed_gradient(
    model: nn.Module,
    parameters: list[nn.Parameter],
    micro_batches: list[Batch],
    loss_function: LossFunction,
    consume: Callable[[nn.Parameter, torch.Tensor], None],
) -> torch.Tensor:
    """The gradient of [`mean_gradient`] for one micro-batch on one device, each part given away as soon as it is known.

    `consume` may change the parameter: no pass reads it any more. One that the loss does not depend on has a gradient of 0.

    Returns:
        `torch.Tensor` of shape `(2,)`: sum of the loss, and count.
    """
    (batch,) = micro_batches
    left = dict.fromkeys(parameters)

    def known(p: nn.Parameter) -> None:
        gradient, p.grad = p.grad, None
        del left[p]
        consume(p, gradient.div_(count))

    hooks = [p.register_post_accumulate_grad_hook(known) for p in parameters]
    try:
        with _alone_required(model, parameters):
            loss, count = loss_function(model, batch)
            torch.autograd.backward(loss, inputs=parameters)
    finally:
        for hook in hooks:
            hook.remove()
    for p in left:
        consume(p, torch.zeros_like(p))
    return torch.stack([loss.detach().double(), count.double()])


@contextmanager
def _alone_required(model: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """No other parameter asks for a gradient: autograd would keep the activations for it, until the graph is gone."""
    wanted = set(parameters)
    sharded = isinstance(parameters[0], DTensor)  # FSDP2 sets its buffers up for those that asked first
    others = [] if sharded else [p for p in model.parameters() if p.requires_grad and p not in wanted]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


def means(sums: list[torch.Tensor]) -> list[float]:
    """Losses of pairs of sum and count; `ValueError` where one counts nothing. Waits for the device."""
    pairs = torch.stack(sums).tolist()
    if not all(count for _, count in pairs):
        raise ValueError("A batch has no token to predict. Check that no row of the data set is cut to its prompt.")
    return [total / count for total, count in pairs]


def _gradients(model: nn.Module, loss: torch.Tensor, parameters: list[nn.Parameter]) -> list[torch.Tensor | None]:
    """Of this device's loss; of sharded parameters that of the sum over all devices."""
    if not isinstance(parameters[0], DTensor):
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    loss.backward()  # FSDP2 knows no torch.autograd.grad, and gives the mean over devices
    gradients = [None if p.grad is None else p.grad.mul_(dist.get_world_size()) for p in parameters]
    for p in model.parameters():
        p.grad = None
    return gradients


def all_reduce(tensors: list[torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Sums each tensor over all devices (of `group`), in place; nothing to do for a single one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket]) if len(bucket) > 1 else bucket[0].flatten()
        dist.all_reduce(flat, group=group)
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Tensors that travel together, of one type and place each: small enough that their copy is little memory."""
    buckets: list[list[torch.Tensor]] = []
    open_ones: dict[tuple, tuple[list[torch.Tensor], int]] = {}
    for tensor in tensors:
        key = tensor.dtype, tensor.device
        bucket, size = open_ones.get(key, ([], BUCKET))
        if size + tensor.numel() > BUCKET:
            bucket, size = [], 0
            buckets.append(bucket)
        bucket.append(tensor)
        open_ones[key] = bucket, size + tensor.numel()
    return buckets
