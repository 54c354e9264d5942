"""Gradient difference: up the cross-entropy of hazardous text, down that of retain data."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ...distributed.gradients import Batch
from ...losses import negative_cross_entropy_loss
from ...models.forward_passes import next_token_logits
from ..forget_config import ForgetConfig
from ..forget_trainer import ForgetTrainer


@dataclass
class GradDiffConfig(ForgetConfig):
    r"""
    Configuration class for the [`GradDiffTrainer`].

    It adds no parameters. Both weights are 1, as in the paper's formula; the optimizer and learning rate are those of
    [`ForgetConfig`].
    """

    method: ClassVar[str] = "gradient difference"


class GradDiffTrainer(ForgetTrainer):
    """
    Trainer for gradient difference: the next-token loss on hazardous text goes up, while that on retain data goes down
    (https://huggingface.co/papers/2203.12817, and as a baseline in https://huggingface.co/papers/2401.06121).

        L = −λ_forget · L_LM(θ; D_forget) + λ_retain · L_LM(θ; D_retain)

    The first term has no lower bound, so long runs or a large λ_forget break the model: read the retain loss beside it.
    Difference to the baseline's released code: that takes means of micro-batches; here both are over the tokens of the
    global batch.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model to safeguard. A path is loaded in float32.
        args ([`GradDiffConfig`], *optional*):
            Configuration. If `None`, a default configuration is used.
        train_dataset ([`~datasets.Dataset`]):
            D_retain, in a type that [`~trl.SFTTrainer`] takes.
        forget_dataset ([`~datasets.Dataset`]):
            D_forget, the hazardous text, likewise.
        eval_dataset, processing_class, data_collator, callbacks, optimizers, formatting_func, peft_config, …:
            As in [`~trl.SFTTrainer`].

    Raises:
        `ValueError`: for data sets and options that cannot be trained with, before anything is trained.
    """

    _tag_names = ["trl", "trl-tar", "grad-diff"]
    _name = "Gradient difference"
    config_class = GradDiffConfig

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """−L_CE, summed over tokens to predict."""
        return negative_cross_entropy_loss(next_token_logits(model, batch), batch["labels"])[0]

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """Tokens to predict."""
        return self.retain_count(batch)
