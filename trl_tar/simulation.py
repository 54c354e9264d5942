"""The adversary inside training: weights are edited in place, and put back."""

import contextlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import schedulefree
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import ModulesToSaveWrapper
from torch import nn
from torch.distributed import ProcessGroup
from transformers import PreTrainedModel, Trainer, get_scheduler

from .adversary import Adversary
from .adversary_checks import RESTARTS
from .averaged_weights import is_schedule_free
from .gradients import Batch, LossFunction, consumed_gradient, mean_gradient, means
from .offload import host_like, park
from .sharding import is_sharded, local, reshard
from .stochastic_rounding import in_bfloat16, step_in_float32


ROUTERS = {"Llama4Router", "PhimoeTopKRouter"}
ATTACK_ADAPTER = "attack"  # beside the adapter that is being trained, where there is one


class AttackDiverged(Exception):
    """The adversary's loss, or the gradient of the tamper-resistance loss, is not finite."""


@dataclass
class Attacked:
    """A model under attack.

    Attributes:
        model (`nn.Module`):
            The model to run: the caller's own, or a [`~peft.PeftModel`] around it for a LoRA attack.
        parameters (`list[nn.Parameter]`):
            What the adversary trains.
        snapshot (`list[tuple[torch.Tensor, torch.Tensor]]`):
            Each buffer and, unless the attack is through LoRA, each parameter, and its value before the attack (of a
            sharded one, this device's part).
        seed (`int`):
            Of the attack.
        losses (`list[float]`):
            The adversary's loss before each step, in nats.
        tamper_resistance_losses (`list[float]`):
            L_TR at each judgement, in nats.
    """

    model: nn.Module
    parameters: list[nn.Parameter]
    snapshot: list[tuple[torch.Tensor, torch.Tensor]]
    seed: int
    losses: list[float] = field(default_factory=list)
    tamper_resistance_losses: list[float] = field(default_factory=list)


@contextlib.contextmanager
def restored(
    model: nn.Module,
    adversary: Adversary,
    seed: int,
    room: list[torch.Tensor] | None = None,
    offload: bool = False,
) -> Iterator[Attacked]:
    """Opens `model` to an attack; on exit, also by an exception, everything is bitwise as it was.

    That covers parameters, buffers, gradients, `requires_grad`, training mode, adapters and the state of torch's random
    number generators.

    Args:
        model (`nn.Module`):
            Unwrapped model (no DDP around it), with or without adapter.
        adversary ([`Adversary`]):
            Says whether the attack is on all parameters or through LoRA.
        seed (`int`):
            Of the adapter's initialisation, of dropout during the attack, and of rounding.
        room (`list[torch.Tensor]`, *optional*):
            Memory for the snapshot, kept from attack to attack of the same model; filled where it is too short.
        offload (`bool`, *optional*, defaults to `False`):
            Keep the snapshot on the host.
    """
    edited = list(model.buffers())
    if adversary.lora_r is None:  # else the attack steps an adapter of its own, and no parameter of the model
        edited.extend(model.parameters())
    snapshot = _taken(edited, [] if room is None else room, offload)
    state = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    mode = {module: module.training for module in model.modules()}
    devices = [next(model.parameters()).device] if next(model.parameters()).is_cuda else []
    with torch.random.fork_rng(devices=devices):
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
            for module, training in mode.items():
                module.training = training


def _taken(
    tensors: list[torch.Tensor], room: list[torch.Tensor], offload: bool
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each tensor with a copy of its value. Fresh memory for it would cost more than the copying."""
    room.extend(host_like(t) if offload else torch.empty_like(local(t)) for t in tensors[len(room) :])
    taken = list(zip(tensors, room, strict=False))  # an attack through LoRA leaves the room of parameters to others
    with torch.no_grad():
        for t, value in taken:
            park(t, value)
    return taken


@contextlib.contextmanager
def _opened(model: nn.Module, adversary: Adversary, snapshot: list, seed: int) -> Iterator[Attacked]:
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
        active = model.active_adapters
        wrappers = {id(module) for module in model.modules() if isinstance(module, BaseTunerLayer)}
        try:
            model.add_adapter(ATTACK_ADAPTER, config)
            model.base_model.set_adapter([*active, ATTACK_ADAPTER])
            marker = f".{ATTACK_ADAPTER}."
            parameters = [p for name, p in model.named_parameters() if marker in name]
            for p in (*outer, *parameters):
                p.requires_grad_(True)
            yield Attacked(model, parameters, snapshot, seed)
        finally:
            model.base_model.set_adapter(active)
            model.delete_adapter(ATTACK_ADAPTER)
            for name, module in list(model.named_modules()):  # PEFT leaves its wrappers, and their names in checkpoints
                if isinstance(module, BaseTunerLayer) and id(module) not in wrappers:
                    parent, _, child = name.rpartition(".")
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
    """Matrices of adapters, and the originals of `modules_to_save`: who attacks all parameters attacks the merged model."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            yield from (p for name, p in module.named_parameters() if not name.startswith("base_layer."))
        elif isinstance(module, ModulesToSaveWrapper):
            yield from module.original_module.parameters()


def _wrapped(model: PreTrainedModel, config: LoraConfig) -> PeftModel:
    """The model with a new adapter. PEFT hooks the embeddings for re-entrant checkpointing, at each wrapping anew, and
    never takes the hook back: this does."""
    hooks = model.get_input_embeddings()._forward_hooks
    before = set(hooks)
    attacked = get_peft_model(model, config)
    for added in set(hooks) - before:
        del hooks[added]
    return attacked


def scheduler_arguments(adversary: Adversary) -> dict[str, int]:
    """What transformers' schedule takes beside warm-up and steps."""
    return {"num_cycles": RESTARTS} if adversary.lr_scheduler == "cosine_with_restarts" else {}


def lora_config(adversary: Adversary, model: nn.Module | None = None) -> LoraConfig:
    """The adapter of a LoRA attack, which leaves the model's routers of experts alone."""
    targets = adversary.lora_target_modules
    return LoraConfig(
        r=adversary.lora_r,
        lora_alpha=adversary.lora_alpha,
        lora_dropout=adversary.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=(routers(model) or None) if model is not None else None,
        use_dora=adversary.use_dora,
        task_type="CAUSAL_LM",
    )


def routers(model: nn.Module) -> list[str]:
    """Names of the routers of Llama 4 and Phi-MoE: linear layers that return more than their product, so that PEFT, which
    would adapt them, breaks them."""
    unwrapped = model.get_base_model() if isinstance(model, PeftModel) else model
    return [
        name
        for name, module in unwrapped.named_modules()
        if any(each.__name__ in ROUTERS for each in type(module).__mro__)  # FSDP2 makes a class of its own from each
    ]


@contextlib.contextmanager
def swapped_in(model: nn.Module, values: list[tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    """Other values for some tensors of the model; for forward passes without gradient.

    By reference, without a copy of what is on the model's device, unless FSDP2 shards the model: it reads from memory of its own."""
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
    for tensor, value in values:
        tensor.copy_(value)
    reshard(model)


def attack_steps(
    attacked: Attacked,
    adversary: Adversary,
    batches: Iterable[list[Batch]],
    loss_function: LossFunction,
    interval: int = 1,
    in_backward: bool = False,
    group: ProcessGroup | None = None,
) -> Iterator[int]:
    """Runs the attack, and stops to be judged after every `interval`-th step.

    A Schedule-Free attacker is at its averaged point x while it is judged and steps at y. Losses are read where the attack
    stops: between two stops nothing waits for the device.

    Args:
        attacked ([`Attacked`]):
            From [`restored`].
        adversary ([`Adversary`]):
            Optimizer and schedule.
        batches (`Iterable[list[dict[str, torch.Tensor]]]`):
            One item a step: this device's share of the global batch, as micro-batches.
        loss_function (`Callable`):
            Model and micro-batch → (summed loss, count).
        interval (`int`, *optional*, defaults to `1`):
            Steps between two judgements.
        in_backward (`bool`, *optional*, defaults to `False`):
            Step each parameter as soon as its gradient is known, and keep no gradient. For one micro-batch a step on one
            device, without clipping, and optimizers that look at one parameter at a time.
        group (`torch.distributed.ProcessGroup`, *optional*):
            The devices that run this attack. All of them by default.

    Yields:
        `int`: k, counted from 0, with the weights at θ_{k+1}; −1 once, at θ itself, for an attack of no steps.

    Raises:
        [`AttackDiverged`]: if the loss is not finite.
    """
    if adversary.num_steps == 0:
        yield -1
        return
    optimizer = create_optimizer(attacked.model, attacked.parameters, adversary)
    generator = torch.Generator(attacked.parameters[0].device).manual_seed(attacked.seed)
    if in_bfloat16(attacked.parameters) and not in_backward:
        step_in_float32(optimizer, generator)
    scheduler = get_scheduler(
        adversary.lr_scheduler,
        optimizer,
        num_warmup_steps=adversary.warmup_steps,
        num_training_steps=adversary.num_steps,
        scheduler_specific_kwargs=scheduler_arguments(adversary),
    )
    schedule_free = is_schedule_free(optimizer)
    if schedule_free:
        optimizer.train()
    step_one = StepOne(optimizer, generator) if in_backward else None
    pending: list[torch.Tensor] = []
    for step, micro_batches in enumerate(batches):
        if step_one is not None:
            sums = consumed_gradient(attacked.model, attacked.parameters, micro_batches, loss_function, step_one)
        else:
            sums, gradients = mean_gradient(attacked.model, attacked.parameters, micro_batches, loss_function, group)
            for p in reversed(attacked.parameters):  # pops: no gradient outlives the step
                p.grad = gradients.pop()
            if adversary.max_grad_norm:
                nn.utils.clip_grad_norm_(attacked.parameters, adversary.max_grad_norm)
        pending.append(sums)
        optimizer.step()
        scheduler.step()
        for p in attacked.parameters:
            p.grad = None
        judged = (step + 1) % interval == 0
        if judged or step + 1 == adversary.num_steps:
            _read_losses(attacked, pending)
        if judged:
            if schedule_free:
                optimizer.eval()
            yield step
            if schedule_free:
                optimizer.train()


def _read_losses(attacked: Attacked, pending: list[torch.Tensor]) -> None:
    """Moves the losses of the last steps into the record; a gradient that is not finite shows in the loss after it."""
    for loss in means(pending):
        if not math.isfinite(loss):
            raise AttackDiverged(f"loss {loss} at step {len(attacked.losses)}")
        attacked.losses.append(loss)
    pending.clear()


class StepOne:
    """Steps one parameter at a time, as the optimizer would step them all.

    Args:
        optimizer (`torch.optim.Optimizer`):
            Holds the groups and their learning rates, and never a state.
        generator (`torch.Generator`):
            Of the rounding of weights in bfloat16.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, generator: torch.Generator):
        self._groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        kind: Any = type(optimizer)
        self._own = {p: kind([{**group, "params": [p]}]) for p, group in self._groups.items()}
        for p, own in self._own.items():
            if in_bfloat16([p]):
                step_in_float32(own, generator)

    def __call__(self, parameter: nn.Parameter, gradient: torch.Tensor) -> None:
        own = self._own[parameter]
        own.param_groups[0]["lr"] = self._groups[parameter]["lr"]
        parameter.grad = gradient
        own.step()
        parameter.grad = None


def optimizer_class_and_arguments(adversary: Adversary) -> tuple[type[torch.optim.Optimizer], dict]:
    """Optimizer of an attack and its arguments, in the form of `Trainer`'s `optimizer_cls_and_kwargs`."""
    lr = {"lr": adversary.learning_rate}
    match adversary.optimizer:
        case "adamw":
            return torch.optim.AdamW, {**lr, "betas": (0.9, 0.999), "eps": 1e-8, "fused": True}
        case "adamw_8bit":
            from bitsandbytes.optim import AdamW8bit

            return AdamW8bit, {**lr, "betas": (0.9, 0.999), "eps": 1e-8}
        case "schedule_free_adamw":
            return schedulefree.AdamWScheduleFree, {**lr, "betas": (0.9, 0.999), "warmup_steps": adversary.warmup_steps}
        case "sgd":
            return torch.optim.SGD, {**lr, "momentum": adversary.momentum, "nesterov": adversary.nesterov}
        case "adadelta":
            return torch.optim.Adadelta, lr
        case "adagrad":
            return torch.optim.Adagrad, lr
    raise AssertionError(adversary.optimizer)


def create_optimizer(model: nn.Module, parameters: list[nn.Parameter], adversary: Adversary) -> torch.optim.Optimizer:
    """Optimizer of an attack, with the parameter groups of a Hugging Face trainer: no decay on norms and biases."""
    wanted = {id(p) for p in parameters}
    # the method does not use `self`; calling it keeps the rule in one place, transformers
    decay_names = set(Trainer.get_decay_parameter_names(None, model))
    named = [(name, p) for name, p in model.named_parameters() if id(p) in wanted]
    groups = [
        {"params": [p for name, p in named if name in decay_names], "weight_decay": adversary.weight_decay},
        {"params": [p for name, p in named if name not in decay_names], "weight_decay": 0.0},
    ]
    optimizer_class, arguments = optimizer_class_and_arguments(adversary)
    return optimizer_class([group for group in groups if group["params"]], **arguments)
