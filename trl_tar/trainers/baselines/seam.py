"""SEAM: fine-tuning on harmful text pulls against fine-tuning on harmless text."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ...distributed.gradients import Batch
from ...distributed.sharding import total_norm
from ...models.layer_logits import final_norm, layer_cross_entropy
from ...simulation.displaced import displaced
from ...validation import check_above_0, check_not_negative
from ..added_gradient_trainer import AddedGradientTrainer, cosine
from ..forget_config import ForgetConfig


@dataclass
class SEAMConfig(ForgetConfig):
    r"""
    Configuration class for the [`SEAMTrainer`]. Its defaults are those of the released runs, `presets["released"]`; α of the paper is
    `retain_weight`.

    Parameters:
        cosine_weight (`float`, *optional*, defaults to `0.01`):
            β, weight of the cosine of the two gradients, at least 0.
        radius (`float`, *optional*, defaults to `0.001`):
            ε, length of the step of the finite difference, above 0.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.
    """

    method: ClassVar[str] = "SEAM"
    # https://huggingface.co/papers/2505.12186, as its released runs have it
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "released": {"retain_weight": 1.0, "forget_weight": 1.0, "cosine_weight": 0.01, "radius": 1e-3},
    }

    cosine_weight: float = field(default=0.01, metadata={"help": "Weight of the cosine of the gradients."})
    radius: float = field(default=1e-3, metadata={"help": "Length of the finite difference's step."})

    def check(self) -> None:
        super().check()
        check_not_negative(self, ("cosine_weight",))
        check_above_0(self, ("radius",))
        if self.bf16 and self.cosine_weight > 0:
            raise ValueError(
                f"{type(self).__name__} has bf16=True, and a step of radius={self.radius} over all weights is less than bfloat16 "
                "can tell: the gradient of the cosine would be rounding. Set bf16=False, or cosine_weight=0."
            )


class SEAMTrainer(AddedGradientTrainer):
    """
    Trainer for SEAM: the gradient of hazardous text is turned against that of retain data
    (https://huggingface.co/papers/2505.12186), so that who fine-tunes on the first destroys the model.

        L = λ_retain b(θ) − λ_forget log(1 + h̄(θ)) + β cos(∇h(θ), ∇b(θ))

    with b the next-token cross-entropy on D_retain, h that on D_forget, and h̄ the mean of h over the layers, whose hidden states
    are read through the model's last norm and head. The gradient of the cosine, with u and v the unit vectors of ∇h and ∇b and c
    their cosine, is taken by differences:

        ∇cos = [∇h(θ + ε(v − cu)) − ∇h(θ)] / (ε ‖∇h‖) + [∇b(θ + ε(u − cv)) − ∇b(θ)] / (ε ‖∇b‖)

    Passes have to be in float32, without `bf16`: a step of ε over all weights is less than bfloat16 can tell. Differences to the released
    code: the safe answers and the harmless text are both D_retain; all losses, the logarithm and the norms are of the global
    batch; positions without a label are left out, where that sets their logits to 0; each layer counts once, where that counts
    the last one twice, normed twice; and θ is put back bitwise.

    Arguments and errors are those of [`ForgetTrainer`].
    """

    _tag_names = ["trl", "trl-tar", "seam"]
    _name = "SEAM"
    config_class = SEAMConfig
    hides = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_outputs.check_hidden_states("SEAM", "Use another defence.", one_width=True)
        self._final_norm = final_norm(self.model)

    def reads_hidden_states(self, args: SEAMConfig) -> bool:
        return True

    def added_gradient(self, retain: list[Batch], forget: list[Batch]) -> list[torch.Tensor]:
        """−λ_forget ∇log(1 + h̄) + β ∇cos(∇h, ∇b)."""
        args = self.args
        loss, added = self.gradient_of(forget, self._layers)
        for g in added:
            g.mul_(-args.forget_weight / (1 + loss))
        self._log("forget_loss", -math.log1p(loss))
        if args.cosine_weight > 0:
            value, gradient = cosine_gradient(
                self.parameters,
                lambda: self.gradient_of(forget)[1],
                lambda: self.gradient_of(retain)[1],
                args.radius,
            )
            self._log("gradient_cosine", value)
            for g, other in zip(added, gradient, strict=True):
                g.add_(other, alpha=args.cosine_weight)
        return added

    def _layers(self, model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        with self.accelerator.autocast():
            return layer_cross_entropy(model, self._final_norm, self.model.get_output_embeddings(), batch)


def cosine_gradient(
    parameters: list[nn.Parameter],
    first: Callable[[], list[torch.Tensor]],
    second: Callable[[], list[torch.Tensor]],
    radius: float,
) -> tuple[float, list[torch.Tensor]]:
    """The cosine of two gradients, and its own gradient by differences of length ε.

    Args:
        parameters (`list[torch.nn.Parameter]`):
            The parameters. Afterwards they are bitwise what they were.
        first, second (`Callable`):
            Each gives the gradient of its loss where the parameters are now.
        radius (`float`):
            ε, above 0. Of quadratic losses the difference is the derivative, for any ε.

    Returns:
        `tuple[float, list[torch.Tensor]]`: the cosine, and a gradient for each parameter; zeros where one of the two is 0.
    """
    gradients = first(), second()
    value = cosine(*gradients)
    lengths = [total_norm(gradient).item() for gradient in gradients]
    result = [torch.zeros_like(p) for p in parameters]
    if not min(lengths) > 0:
        return value, result
    for here, there, function in ((0, 1, first), (1, 0, second)):
        own, other = gradients[here], gradients[there]
        direction = (o / lengths[there] - (value / lengths[here]) * g for g, o in zip(own, other, strict=True))
        with displaced(parameters, direction, radius):
            moved = function()
        for total, m, g in zip(result, moved, own, strict=True):
            total.add_(m.sub_(g), alpha=1 / (radius * lengths[here]))
    return value, result
