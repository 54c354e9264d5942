"""What is different about parameters that FSDP2 shards over devices; for all others these functions do the plain thing."""

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
    """Whether FSDP2 holds the model's parameters."""
    return any(isinstance(module, FSDPModule) for module in model.modules())


def reshard(model: nn.Module) -> None:
    """Frees what FSDP2 gathered of parameters for the last pass; after an edit the next one gathers them anew."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def like(value: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """The value, which every device has whole, on the device and in the shards of a tensor."""
    value = value.to(tensor.device)
    if not isinstance(tensor, DTensor):
        return value
    return distribute_tensor(value, tensor.device_mesh, tensor.placements)


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This device's part of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor with all its shards; every device has to ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@contextmanager
def saved_whole(accelerator: Accelerator) -> Iterator[None]:
    """Saves in one piece what checkpoints keep in shards: transformers saves no model at all otherwise."""
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
    """2-norm of all together."""
    return whole(nn.utils.get_total_norm(tensors))


def inner_product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Of two tensors with the same shape and shards: this device's part, float64."""
    return torch.dot(local(first).flatten(), local(second).flatten()).double()


def all_parts(total: torch.Tensor, tensors: list[torch.Tensor]) -> torch.Tensor:
    """The sum of what each device has of it, where it is of sharded tensors."""
    if any(isinstance(tensor, DTensor) for tensor in tensors):
        dist.all_reduce(total)
    return total
