"""Functions for parameters that FSDP2 may shard over devices; for others they do what PyTorch does without sharding."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(model: nn.Module) -> bool:
    """Tells whether FSDP2 shards the model's parameters."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Frees the parameters that FSDP2 gathered for the last pass, so that the next pass gathers them again, after an edit."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def like(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The value, which every device has whole, on the device of `tensor` and sharded as it is."""
    value = value.to(tensor.device)
    if not isinstance(tensor, DTensor):
        return value
    return distribute_tensor(value, tensor.device_mesh, tensor.placements)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This device's shard of a tensor, in the same memory; the tensor itself if it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def sharded_like(part: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, sharded like `tensor`, of which `part` is this device's shard, in the same memory."""
    if not isinstance(tensor, DTensor):
        return part
    return DTensor.from_local(
        part, tensor.device_mesh, tensor.placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with the shards of all devices, every one of which has to call this."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def saved_whole(accelerator: Accelerator) -> Iterator[None]:
    """Makes accelerate save whole weights instead of shards; transformers saves no model at all from shards."""
    plugin = accelerator.state.fsdp_plugin if accelerator.distributed_type == DistributedType.FSDP else None
    before = None if plugin is None else plugin.state_dict_type
    if plugin is not None:
        plugin.set_state_dict_type("FULL_STATE_DICT")
    try:
        yield
    finally:
        if plugin is not None:
            plugin.set_state_dict_type(before)


def total_norm(tensors: list[torch.Tensor]) -> torch.Tensor:
    """The 2-norm of all tensors together, as if they were one vector."""
    return whole(nn.utils.get_total_norm(tensors))


def inner_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The inner product of two tensors of the same shape and sharding in float64; if they are sharded, this device's part."""
    return torch.dot(local(first).flatten(), local(second).flatten()).double()


def all_parts(total: torch.Tensor, tensors: list[torch.Tensor]) -> torch.Tensor:
    """All-reduces `total` if the tensors are sharded, since each device then summed only its part."""
    if any(isinstance(tensor, DTensor) for tensor in tensors):
        dist.all_reduce(total)
    return total
