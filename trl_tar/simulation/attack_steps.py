"""The steps and the loss of a simulated attack."""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed import ProcessGroup
from transformers import get_scheduler

from ..adversaries.adversary import Adversary
from ..adversaries.diverged import AttackDiverged
from ..distributed.gradients import Batch, LossFunction, consumed_gradient, mean_gradient, means
from ..losses import dpo_loss, language_modeling_loss, sequence_log_probs
from ..models.forward_passes import labelled_logits
from ..optim.attack_optimizers import create_optimizer, scheduler_arguments
from ..optim.schedule_free import is_schedule_free
from ..optim.stochastic_rounding import in_bfloat16, step_in_float32
from .progress import Progress
from .restored import Attacked


def attack_loss(adversary: Adversary) -> LossFunction:
    """The loss that the adversary minimises, by its objective: model and micro-batch → (sum, count)."""

    def sft(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return language_modeling_loss(*labelled_logits(model, batch))

    def dpo(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs = sequence_log_probs(*labelled_logits(model, batch))
        return dpo_loss(log_probs, batch["reference_log_probs"], adversary.beta)

    return {"sft": sft, "dpo": dpo}[adversary.objective]


def attack_steps(
    attacked: Attacked,
    adversary: Adversary,
    batches: Iterable[list[Batch]],
    loss_function: LossFunction,
    interval: int = 1,
    in_backward: bool = False,
    group: ProcessGroup | None = None,
    progress: Progress | None = None,
) -> Iterator[int]:
    """Runs the attack, or a part of it, and stops to be evaluated after every `interval`-th step.

    A Schedule-Free attacker is at its averaged point x while it is evaluated, and steps at y. Losses are read where the
    attack stops: between two stops nothing waits for the device.

    Args:
        attacked ([`Attacked`]):
            From [`restored`].
        adversary ([`Adversary`]):
            Optimizer and schedule.
        batches (`Iterable[list[dict[str, torch.Tensor]]]`):
            This device's share of the global batch of each step, as micro-batches.
        loss_function (`Callable`):
            Model and micro-batch → (summed loss, count).
        interval (`int`, *optional*, defaults to `1`):
            Steps from one evaluation to the next.
        in_backward (`bool`, *optional*, defaults to `False`):
            Step each parameter as soon as its gradient is known, and keep no gradient. This needs one micro-batch a step,
            one device, no clipping, and an optimizer that looks at one parameter at a time.
        group (`torch.distributed.ProcessGroup`, *optional*):
            The devices that run this attack. Defaults to all of them.
        progress ([`Progress`], *optional*):
            State in which an earlier part of the attack ended, and in which this one ends. By default, `batches` are those of
            the whole attack.

    Yields:
        `int`: k, counted from 0 in this part, with the weights at θ_{k+1}; −1 once, at θ itself, for an attack of no steps.

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
    if progress is not None and progress.states:
        progress.hand_over(attacked.parameters, optimizer, scheduler)
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
        evaluated = (step + 1) % interval == 0
        if evaluated:
            _read_losses(attacked, pending)
            if schedule_free:
                optimizer.eval()
            yield step
            if schedule_free:
                optimizer.train()
    if pending:
        _read_losses(attacked, pending)
    if progress is not None:
        progress.take(attacked.parameters, optimizer, scheduler)


def _read_losses(attacked: Attacked, pending: list[torch.Tensor]) -> None:
    """Moves the losses of the last steps into `attacked.losses`; `AttackDiverged` where one is not finite.

    A gradient that is not finite shows in the next loss."""
    for loss in means(pending):
        if not math.isfinite(loss):
            raise AttackDiverged(f"loss {loss} at step {len(attacked.losses)}")
        attacked.losses.append(loss)
    pending.clear()


class StepOne:
    """Steps one parameter at a time, as the optimizer would step them all.

    Args:
        optimizer (`torch.optim.Optimizer`):
            Holds the groups and their learning rates, which its scheduler sets. It takes no step itself.
        generator (`torch.Generator`):
            Generator of the stochastic rounding of weights in bfloat16.
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
