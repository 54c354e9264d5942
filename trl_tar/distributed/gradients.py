"""Gradients of losses that are means over the global batch, and their all-reduce between devices.

Loss functions return a pair of sum and count, so that every gradient is that of the mean over all micro-batches and devices.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor


Batch = dict[str, torch.Tensor]
LossFunction = Callable[[nn.Module, Batch], tuple[torch.Tensor, torch.Tensor]]
BUCKET = (
    2**24
)  # most numbers in one all-reduce of several tensors: 64 MiB in float32, a choice between speed and memory
FILLER = (
    "filler"  # key of a batch that counts as nothing: under FSDP2 all devices have to make the same number of passes
)


def mean_gradient(
    model: nn.Module,
    parameters: list[nn.Parameter],
    micro_batches: list[Batch],
    loss_function: LossFunction,
    group: dist.ProcessGroup | None = None,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The gradient of the mean loss over the batch of all devices, all-reduced.

    It comes from `torch.autograd.grad` on the unwrapped model, so neither `.grad` nor the hooks of DDP see it. Nothing here
    waits for the device.

    Args:
        model (`torch.nn.Module`):
            Unwrapped model.
        parameters (`list[torch.nn.Parameter]`):
            Parameters of the gradient.
        micro_batches (`list[dict[str, torch.Tensor]]`):
            This device's part of the batch.
        loss_function (`Callable`):
            Takes model and micro-batch, and returns the sum of the loss and its count.
        group (`torch.distributed.ProcessGroup`, *optional*):
            Devices that share the batch. By default all of them.

    Returns:
        `tuple[torch.Tensor, list[torch.Tensor]]`: sum of the loss and count, of shape `(2,)`, for [`means`]; and the gradient
        of each parameter.
    """
    device = parameters[0].device
    totals: list[torch.Tensor | None] = [None] * len(parameters)
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # of the loss, and of its count
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
    """Hands each parameter's part of the gradient of [`mean_gradient`] to `consume` as soon as the backward pass has it.

    This works for one micro-batch on one device. `consume` may change the parameter, which the pass does not read again. A
    parameter on which the loss does not depend has a gradient of 0.

    Returns:
        `torch.Tensor` of shape `(2,)`: sum of the loss, and count.
    """
    (batch,) = micro_batches
    left = dict.fromkeys(parameters)

    def hand_over(p: nn.Parameter) -> None:
        gradient, p.grad = p.grad, None
        assert gradient is not None
        del left[p]
        consume(p, gradient.div_(count))

    hooks = [p.register_post_accumulate_grad_hook(hand_over) for p in parameters]
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
    """Lets no other parameter require a gradient, for which autograd would keep activations as long as the graph lives."""
    wanted = set(parameters)
    sharded = isinstance(
        parameters[0], DTensor
    )  # FSDP2 has set up buffers for the parameters that required one at first
    others = [] if sharded else [p for p in model.parameters() if p.requires_grad and p not in wanted]
    for p in others:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in others:
            p.requires_grad_(True)


def means(sums: list[torch.Tensor]) -> list[float]:
    """The mean losses of pairs of sum and count; `ValueError` for a count of 0. Reading them waits for the device."""
    pairs = torch.stack(sums).tolist()
    if not all(count for _, count in pairs):
        raise ValueError("A batch has no token to predict. Check that no row of the data set is cut to its prompt.")
    return [total / count for total, count in pairs]


def _gradients(model: nn.Module, loss: torch.Tensor, parameters: list[nn.Parameter]) -> list[torch.Tensor | None]:
    """The gradients of this device's loss; for sharded parameters those of the sum of all devices' losses."""
    if not isinstance(parameters[0], DTensor):
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    loss.backward()  # FSDP2 does not support torch.autograd.grad, and takes the mean over devices
    gradients = [None if p.grad is None else p.grad.mul_(dist.get_world_size()) for p in parameters]
    for p in model.parameters():
        p.grad = None
    return gradients


def all_reduce(tensors: list[torch.Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Sums each tensor over all devices of `group`, by default over all there are, in place."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size(group) == 1:
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.flatten() for tensor in bucket]) if len(bucket) > 1 else bucket[0].flatten()
        dist.all_reduce(flat, group=group)
        for tensor, part in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
            tensor.copy_(part.view_as(tensor))


def _buckets(tensors: list[torch.Tensor]) -> list[list[torch.Tensor]]:
    """Groups tensors of one type and device for an all-reduce each, of at most `BUCKET` numbers unless one tensor has more."""
    buckets: list[list[torch.Tensor]] = []
    unfilled: dict[tuple, tuple[list[torch.Tensor], int]] = {}
    for tensor in tensors:
        key = tensor.dtype, tensor.device
        bucket, size = unfilled.get(key, ([], BUCKET))
        if size + tensor.numel() > BUCKET:
            bucket, size = [], 0
            buckets.append(bucket)
        bucket.append(tensor)
        unfilled[key] = bucket, size + tensor.numel()
    return buckets
