"""Vaccine: the loss on retain data is low even where the outputs of attention are shifted against it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ...distributed.gradients import Batch, all_reduce
from ...models.decoder_layers import attention_modules
from ...models.module_outputs import outputs_shifted
from ...validation import check_above_0
from ..forget_config import ForgetConfig
from ..forget_trainer import ForgetTrainer
from ..model_checks import check_whole


@dataclass
class VaccineConfig(ForgetConfig):
    r"""
    Configuration class for the [`VaccineTrainer`].

    Parameters:
        radius (`float`, *optional*, defaults to `2.0`):
            ρ, length of the shift of all layers, tokens and rows of a step together, above 0.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.
    """

    method: ClassVar[str] = "Vaccine"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"radius": 2.0}}

    radius: float = field(default=2.0, metadata={"help": "Length of the shift of the outputs of attention."})

    def check(self) -> None:
        super().check()
        check_above_0(self, ("radius",))


class VaccineTrainer(ForgetTrainer):
    """
    Trainer for Vaccine: the loss on retain data is low even where the outputs of attention are shifted against it
    (https://huggingface.co/papers/2402.01109), so that fine-tuning drifts less.

        L = λ_retain · L_LM(θ; a^ℓ + ε_ℓ)        ε_ℓ = ρ · g_ℓ / ‖(g_1, …, g_L)‖,  g_ℓ = ∂L_LM(θ) / ∂a^ℓ

    with a^ℓ the output of the attention of layer ℓ. A first pass takes g_ℓ, and the second one trains with ε_ℓ held fixed. It knows
    no hazardous text: D_forget is taken so that all defences are called alike, and nothing is trained on it. The shift is of the
    whole global batch, as its norm is: with more rows, each has a smaller part of ρ, and to hold it takes the memory of the outputs
    of attention of all micro-batches. Differences to the released code: that takes the norm of a micro-batch, drops all
    micro-batches but the last, writes into outputs behind the back of autograd, and is plain fine-tuning on architectures that it does
    not know, where this raises an error.

    Arguments and errors are those of [`ForgetTrainer`]. `train_dataset` is of safe answers.
    """

    _tag_names = ["trl", "trl-tar", "vaccine"]
    _name = "Vaccine"
    config_class = VaccineConfig
    hides = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_whole(self, "reads the layers of the model one by one")
        self._attention = attention_modules(self.model)
        self._shifts: Iterator[dict[nn.Module, torch.Tensor]] = iter(())

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        self._shifts = iter(())  # of a step that was interrupted
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch, whose shifts the first one of the step finds for all."""
        shifts = next(self._shifts, None)
        if shifts is None:
            model.train()  # checkpointing is for training alone
            self._shifts = iter(self.shifts(self.step_batches[0]))
            shifts = next(self._shifts)
        with outputs_shifted(self._attention, shifts):
            return super().training_step(model, inputs, num_items_in_batch)

    def shifts(self, batches: list[Batch]) -> list[dict[nn.Module, torch.Tensor]]:
        """ε of the outputs of attention, `(B, T, D)` of each layer, for each micro-batch of this device."""
        found, tokens = [], self._means.counts[0]
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)  # of squares, and of the loss
        for batch in batches:
            zeros: dict[nn.Module, torch.Tensor] = {}
            with outputs_shifted(self._attention, zeros):
                loss = self.retain_loss(self.model, batch)[0] / tokens
                gradients = torch.autograd.grad(loss, list(zeros.values()))
            found.append(dict(zip(zeros, gradients, strict=True)))
            squares = torch.stack([g.double().square().sum() for g in gradients]).sum()
            sums += torch.stack([squares, loss.detach().double()])
        all_reduce([sums])
        length, loss_before = sums[0].sqrt().item(), sums[1].item()
        self._log("retain_loss/unshifted", loss_before)
        for part in found:
            for module, g in part.items():
                part[module] = scaled(g, length, self.args.radius)
        return found

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """No mean: nothing is trained on D_forget."""
        return torch.zeros(0, device=batch["labels"].device)

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """No mean, no count."""
        return torch.zeros(0, dtype=torch.long, device=batch["labels"].device)


def scaled(gradient: torch.Tensor, length: float, radius: float) -> torch.Tensor:
    """ρ · g / length, for the length of all gradients together; 0 where they are all 0."""
    return gradient * (radius / length if length > 0 else 0.0)
