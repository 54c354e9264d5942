"""The gradient of an outer step, g_retain + g_TR, as it is gathered around its attacks."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..adversaries.diverged import AttackDiverged
from ..distributed.device_groups import DeviceGroup
from ..distributed.gradients import Batch, LossFunction, all_reduce, consumed_gradient, mean_gradient, means
from ..distributed.sharding import all_parts, inner_product, total_norm
from ..optim.offload import host_like, park
from ..optim.stochastic_rounding import at_least_float32


@dataclass(frozen=True)
class OuterTerm:
    """A loss at the attacked weights.

    Args:
        name (`str`):
            Its name in the log.
        weight (`float`):
            Its weight, before that of the step in its attack.
        batches (`list[dict[str, torch.Tensor]]`):
            This device's share of its batch, as micro-batches; one batch for the whole visit of an attacker.
        loss (`Callable`):
            Model and micro-batch → (summed loss, count).
        bound (`float`, *optional*):
            Least value of the mean, in nats: a loss below counts as this value and has no gradient.
    """

    name: str
    weight: float
    batches: list[Batch]
    loss: LossFunction
    bound: float | None = None


class OuterGradient:
    """Holds the two terms of the outer gradient while attacks use `.grad` and the weights.

    In each outer step, `take_retain` comes first, `evaluate` wherever an attack is judged, and `set` last.

    Args:
        model (`nn.Module`):
            The model that is trained.
        devices ([`DeviceGroup`]):
            Groups that share the attacks of an outer step.
        offload (`bool`):
            Keep g_retain on the host.

    Attributes:
        parameters (`list[torch.nn.Parameter]`):
            The trained parameters.
        retain (`list[torch.Tensor]`):
            g_retain. With `offload`, its memory on the host stays from step to step; without, it is empty between them.
        tamper_resistance (`list[torch.Tensor]`):
            g_TR, in float32 where the weights are in bfloat16; empty before the first evaluation of a step.
    """

    def __init__(self, model: nn.Module, devices: DeviceGroup, offload: bool):
        self.offload, self._devices = offload, devices
        self._names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.retain: list[torch.Tensor] = []
        self.tamper_resistance: list[torch.Tensor] = []
        self.rebind(model)

    def rebind(self, model: nn.Module) -> None:
        """Looks the parameters up by name: FSDP2 puts new ones in the place of those at construction."""
        parameters = dict(model.named_parameters())
        self.parameters = [parameters[name] for name in self._names]

    def take_retain(self) -> None:
        """Begins an outer step: moves g_retain out of `.grad`, with `offload` to the host."""
        self.tamper_resistance.clear()  # also of a step that was interrupted
        gradient = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        self._retain_norm = total_norm(gradient).double()
        if self.offload:
            self.retain = self.retain or list(map(host_like, gradient))
            for g, room in zip(gradient, self.retain, strict=True):
                park(g, room)
        else:
            self.retain = gradient
        for p in self.parameters:
            p.grad = None

    def evaluate(self, model: nn.Module, term: OuterTerm, share: float, in_backward: bool) -> float:
        """g_TR += share · weight · ∇loss at the attacked weights, straight through the attack (first-order MAML).

        Args:
            model (`torch.nn.Module`):
                The model under attack.
            term ([`OuterTerm`]):
                The loss.
            share (`float`):
                Factor of the term's weight.
            in_backward (`bool`):
                Add each part of the gradient as soon as the backward pass knows it.

        Returns:
            `float`: the loss.

        Raises:
            [`AttackDiverged`]: for a gradient that is not finite.
        """
        weight = term.weight * share
        if in_backward:
            with self.adding(weight) as add:
                sums = consumed_gradient(model, self.parameters, term.batches, term.loss, add)
            return means([sums])[0]
        self.allocated()  # before the pass, so that the first of a step peaks where all others do
        sums, gradient = mean_gradient(model, self.parameters, term.batches, term.loss, self._devices.inside)
        (loss,) = means([sums])
        if term.bound is not None:
            bounded = max(loss, term.bound)
            if bounded > loss:  # clamped: no gradient
                loss, weight = bounded, 0.0
        self.add(weight, gradient)
        return loss

    def add(self, weight: float, gradient: list[torch.Tensor]) -> None:
        """g_TR += weight · gradient; `AttackDiverged` for a gradient that is not finite, which is not added."""
        if not total_norm(gradient).isfinite():
            raise AttackDiverged("gradient of the tamper-resistance loss")
        for total, g in zip(self.allocated(), gradient, strict=True):
            total.add_(g, alpha=weight)

    @contextmanager
    def adding(self, weight: float) -> Iterator[Callable[[nn.Parameter, torch.Tensor], None]]:
        """Gives a function that adds a parameter's gradient times `weight` to g_TR, for a backward pass that keeps none.

        Raises `AttackDiverged` at the end where g_TR is not finite; all of this step's g_TR is then lost."""
        totals = dict(zip(self.parameters, self.allocated(), strict=True))

        def add(p: nn.Parameter, gradient: torch.Tensor) -> None:
            totals[p].add_(gradient, alpha=weight)

        yield add
        if not total_norm(self.tamper_resistance).isfinite():
            for total in self.tamper_resistance:
                total.zero_()
            raise AttackDiverged("gradient of the tamper-resistance loss")

    def set(self, max_norm: float = 0.0) -> dict[str, float]:
        """`.grad` = g_retain + g_TR, in the precision of the weights. Returns both norms and the cosine, for the log.

        A longer g_TR than `max_norm` is scaled to it first; 0 leaves it. The norm that is returned is that before."""
        totals = self.allocated()
        if self._devices.groups > 1:
            all_reduce(totals, self._devices.across)
        retain, tamper = self._retain_norm, total_norm(totals).double()
        if 0 < max_norm < tamper:
            for total in totals:
                total.mul_((max_norm / tamper).item())
        products = []
        totals.reverse()
        for p, r in zip(self.parameters, self.retain, strict=True):
            g = totals.pop()  # freed once `.grad` has it
            r = r.to(g, non_blocking=True)
            products.append(inner_product(r, g))
            p.grad = g.add_(r).to(p.dtype)
        product = all_parts(torch.stack(products).sum(), self.parameters)
        if not self.offload:
            self.retain = []
        log = {"grad_norm/retain": retain.item(), "grad_norm/tamper_resistance": tamper.item()}
        if retain > 0 and tamper > 0:
            kept = min(tamper.item(), max_norm or math.inf)
            log["grad_cosine"] = product.item() / (retain.item() * kept)
        return log

    def allocated(self) -> list[torch.Tensor]:
        """g_TR; zeros before the first evaluation of a step. Not every attack gets to one."""
        if not self.tamper_resistance:
            zeros = (torch.zeros_like(p, dtype=at_least_float32(p)) for p in self.parameters)
            self.tamper_resistance.extend(zeros)
        return self.tamper_resistance
