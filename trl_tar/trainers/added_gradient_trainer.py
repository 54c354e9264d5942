"""What the defences share whose step has a part that is the gradient of no loss, such as a difference of gradients."""

import torch
from torch import nn

from ..distributed.gradients import Batch, LossFunction, mean_gradient, means
from ..distributed.sharding import inner_product, total_norm
from ..losses import language_modeling_loss
from ..models.forward_passes import labelled_logits
from .forget_trainer import ForgetTrainer
from .model_checks import check_whole


class AddedGradientTrainer(ForgetTrainer):
    """
    Base class of the defences that step with

        g = λ_retain ∇L_retain(θ) + added_gradient

    A defence is a subclass with an `added_gradient`, which is made of [`~AddedGradientTrainer.gradient_of`], here and at
    weights beside θ. It is formed once a step, of the batch of all micro-batches and devices, so that norms and cosines in it
    are those of the global batch; with λ_forget in it, where the defence has one. Evaluation gives the retain term.

    Arguments and errors are those of [`ForgetTrainer`]; it refuses FSDP2. With `bf16`, passes
    read weights that are rounded to bfloat16, and of a short step over the weights of a large model much is rounded away: set it to
    `False` there.
    """

    hides = False  # what the model knows is still there: an attack gains less by it

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_whole(self, "takes gradients beside the weights of the model")

    def added_gradient(self, retain: list[Batch], forget: list[Batch]) -> list[torch.Tensor]:
        """The part of the step's gradient that is added to λ_retain ∇L_retain(θ), which is in `.grad`.

        Args:
            retain, forget (`list[dict[str, torch.Tensor]]`):
                This device's micro-batches of the step.

        Returns:
            `list[torch.Tensor]`: for each of `parameters`, the same on all devices.
        """
        raise NotImplementedError

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained: all parameters of the model, or those of its adapter."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def gradient_of(self, batches: list[Batch], loss: LossFunction | None = None) -> tuple[float, list[torch.Tensor]]:
        """The mean over all devices' batches of a loss, by default next-token cross-entropy, and its gradient at the weights
        that the model has now."""
        sums, gradient = mean_gradient(self.model, self.parameters, batches, loss or cross_entropy)
        return means([sums])[0], gradient

    # --- training -----------------------------------------------------------------------------------------------------

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """No mean: what D_forget adds to the gradient is no part of a loss."""
        return torch.zeros(0, device=batch["labels"].device)

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """No mean, no count."""
        return torch.zeros(0, dtype=torch.long, device=batch["labels"].device)

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One micro-batch of the retain term; with the last one of a step, the added gradient too."""
        loss = super().training_step(model, inputs, num_items_in_batch)  # .grad = λ_retain ∇L_retain(θ)
        if self.accelerator.sync_gradients:
            added = self.added_gradient(*self.step_batches)
            for p, g in zip(self.parameters, added, strict=True):
                p.grad = g if p.grad is None else p.grad.add_(g)
        return loss


def cross_entropy(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token cross-entropy of a batch: sum, and tokens to predict."""
    return language_modeling_loss(*labelled_logits(model, batch))


def cosine(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    """The cosine of two gradients, each as one vector; 0 where one of them is 0."""
    lengths = (total_norm(first) * total_norm(second)).item()
    product = torch.stack([inner_product(f, s) for f, s in zip(first, second, strict=True)]).sum().item()
    return product / lengths if lengths > 0 else 0.0
