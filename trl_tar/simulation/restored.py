"""A model that is attacked inside a block and given back unchanged."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..distributed.sharding import is_sharded, local, reshard
from ..models.forward_passes import mode_put_back
from ..models.lora import lora_config
from ..optim.offload import host_like, park


ATTACK_ADAPTER = "attack"  # with underscores behind it where the model has an adapter of that name


class Evaluation(NamedTuple):
    """A value of an outer loss: its name in the log, the steps that the attack had made, and the loss in nats."""

    name: str
    age: int
    loss: float


@dataclass
class Attacked:
    """A model under attack.

    Attributes:
        model (`nn.Module`):
            The model to run: the caller's own, or a [`~peft.PeftModel`] around it for a LoRA attack.
        parameters (`list[nn.Parameter]`):
            The parameters that the adversary trains.
        snapshot (`list[tuple[torch.Tensor, torch.Tensor]]`):
            Each buffer and, unless the attack is through LoRA, each parameter, and its value before the attack (of a
            sharded one, this device's part).
        seed (`int`):
            Seed of the attack's rounding.
        losses (`list[float]`):
            The adversary's loss before each step, in nats.
        evaluations (`list[Evaluation]`):
            The outer losses at each evaluation.
    """

    model: nn.Module
    parameters: list[nn.Parameter]
    snapshot: list[tuple[torch.Tensor, torch.Tensor]]
    seed: int
    losses: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)


class SnapshotRoom:
    """Memory for snapshots of one model, kept from attack to attack: fresh memory would cost more than the copying.

    Args:
        offload (`bool`, *optional*, defaults to `False`):
            Keep it on the host.

    Attributes:
        tensors (`list[torch.Tensor]`):
            The memory, of the buffers first: an attack through LoRA leaves that of the parameters unused.
    """

    def __init__(self, offload: bool = False):
        self.offload = offload
        self.tensors: list[torch.Tensor] = []

    @torch.no_grad()
    def copies(self, tensors: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each tensor with a copy of its value (of a sharded one, of this device's part)."""
        new = tensors[len(self.tensors) :]
        self.tensors.extend(host_like(t) if self.offload else torch.empty_like(local(t)) for t in new)
        return [(t, park(t, room)) for t, room in zip(tensors, self.tensors, strict=False)]


@contextlib.contextmanager
def restored(model: nn.Module, adversary: Adversary, seed: int, room: SnapshotRoom | None = None) -> Iterator[Attacked]:
    """Opens `model` to an attack; on exit, also by an exception, everything is bitwise as it was.

    That covers parameters, buffers, gradients, `requires_grad`, training mode, adapters and the state of torch's random
    number generators.

    Args:
        model (`nn.Module`):
            Unwrapped model (no DDP around it), with or without adapter.
        adversary ([`Adversary`]):
            Says whether the attack is on all parameters or through LoRA.
        seed (`int`):
            Seed of the adapter's initialisation, of dropout during the attack, and of rounding.
        room ([`SnapshotRoom`], *optional*):
            Memory for the snapshot, of the same model in every attack. By default it is allocated for this one.
    """
    edited = list(model.buffers())
    if adversary.lora_r is None:  # else the attack steps an adapter of its own, and no parameter of the model
        edited.extend(model.parameters())
    snapshot = (room or SnapshotRoom()).copies(edited)
    state = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    devices = [next(model.parameters()).device] if next(model.parameters()).is_cuda else []
    with torch.random.fork_rng(devices=devices), mode_put_back(model):
        torch.manual_seed(seed)
        try:
            model.train()
            with contextlib.ExitStack() as stack:
                attacked = stack.enter_context(_opened(model, adversary, snapshot, seed))
                for p in model.parameters():
                    p.grad = None
                yield attacked
        finally:
            with torch.no_grad():
                for tensor, value in snapshot:
                    local(tensor).copy_(value, non_blocking=True)
            reshard(model)
            for p, grad, requires_grad in state:
                p.grad = grad
                p.requires_grad_(requires_grad)


@contextlib.contextmanager
def _opened(model: nn.Module, adversary: Adversary, snapshot: list, seed: int) -> Iterator[Attacked]:
    """The model with the parameters of the attack asking for gradients; an adapter of the attack is gone on exit."""
    outer = [p for p in model.parameters() if p.requires_grad]
    if adversary.lora_r is None:
        idle = {id(p) for p in _outside_the_merged_model(model)}
        parameters = [p for p in model.parameters() if id(p) not in idle]
        for p in parameters:
            p.requires_grad_(True)
        yield Attacked(model, parameters, snapshot, seed)
        return

    config = lora_config(adversary, model)
    if isinstance(model, PeftModel):
        active, name = model.active_adapters, ATTACK_ADAPTER
        while name in model.peft_config:
            name += "_"
        wrappers = {id(module) for module in model.modules() if isinstance(module, BaseTunerLayer)}
        try:
            model.add_adapter(name, config)
            model.base_model.set_adapter([*active, name])
            parameters = [p for path, p in model.named_parameters() if f".{name}." in path]
            for p in (*outer, *parameters):
                p.requires_grad_(True)
            yield Attacked(model, parameters, snapshot, seed)
        finally:
            if name in model.peft_config:  # PEFT refuses an adapter that does not go with those of the model
                model.base_model.set_adapter(active)
                model.delete_adapter(name)
            for path, module in list(model.named_modules()):  # PEFT leaves its wrappers, and their names in checkpoints
                if isinstance(module, BaseTunerLayer) and id(module) not in wrappers:
                    parent, _, child = path.rpartition(".")
                    setattr(model.get_submodule(parent), child, module.get_base_layer())
        return

    attacked = _wrapped(model, config)
    try:
        parameters = [p for p in attacked.parameters() if p.requires_grad]
        for p in outer:
            p.requires_grad_(True)
        yield Attacked(attacked, parameters, snapshot, seed)
    finally:
        attacked.unload()


def _outside_the_merged_model(model: nn.Module) -> Iterator[nn.Parameter]:
    """Matrices of adapters, and the originals of `modules_to_save`. A full-parameter attack is on the merged model, which
    has neither."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            yield from (p for name, p in module.named_parameters() if not name.startswith("base_layer."))
        elif isinstance(module, ModulesToSaveWrapper):
            yield from module.original_module.parameters()


def _wrapped(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with a new adapter, without the hook that PEFT puts on the embeddings at each wrapping, for re-entrant
    checkpointing, and never removes."""
    hooks = model.get_input_embeddings()._forward_hooks
    before = set(hooks)
    attacked = get_peft_model(model, config)
    for added in set(hooks) - before:
        del hooks[added]
    return attacked


@contextlib.contextmanager
def swapped_in(model: nn.Module, values: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    """Gives some tensors of the model other values, for forward passes without gradient.

    Values on the model's device are swapped in by reference. A model that FSDP2 shards gets copies, since FSDP2 reads from
    memory of its own."""
    if not is_sharded(model):
        current = [tensor.data for tensor, _ in values]
        for tensor, value in values:
            tensor.data = value.to(tensor.device, non_blocking=True)
        try:
            with torch.no_grad():
                yield
        finally:
            for (tensor, _), data in zip(values, current, strict=True):
                tensor.data = data
        return
    with torch.no_grad():
        current = [tensor.detach().clone() for tensor, _ in values]
        try:
            _set(model, values)
            yield
        finally:
            _set(model, [(tensor, value) for (tensor, _), value in zip(values, current, strict=True)])


def _set(model: nn.Module, values: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copies values into sharded tensors, and has FSDP2 gather them again."""
    for tensor, value in values:
        tensor.copy_(value)
    reshard(model)
