"""Max-entropy: what the model says next on hazardous text is made uniform."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ...distributed.gradients import Batch
from ...losses import max_entropy_loss
from ...models.forward_passes import next_token_logits
from ...papers import TAR_PAPER
from ..forget_config import ForgetConfig
from ..forget_trainer import ForgetTrainer


@dataclass
class MaxEntropyConfig(ForgetConfig):
    r"""
    Configuration class for the [`MaxEntropyTrainer`].

    It adds no parameters. The optimizer and learning rate are those of [`ForgetConfig`], which are those of the phase-1
    baselines in TAR's released code.
    """

    method: ClassVar[str] = "max-entropy"


class MaxEntropyTrainer(ForgetTrainer):
    """
    Trainer for max-entropy: the distribution of the next token on hazardous text is made uniform, while the next-token
    loss on retain data stays low. It is a phase-1 alternative in https://huggingface.co/papers/2408.00761.

        L = λ_forget · mean[−H(p_θ(· | x))] + λ_retain · L_LM(θ)        x ~ D_forget

    −H = KL(p_θ ‖ U) − log V, whose least value is −log V, so that it needs no clamp. Differences to the released code:
    that feeds retain batches to the forget loss, and averages over all positions, padding included; here D_forget is
    read, and the mean is over the tokens to predict of the global batch. It is not KL(U ‖ p_θ), a loss of the same
    name with another gradient.

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model to safeguard. A path is loaded in float32.
        args ([`MaxEntropyConfig`], *optional*):
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

    _tag_names = ["trl", "trl-tar", "max-entropy"]
    _name = "Max-entropy"
    _paper = TAR_PAPER
    config_class = MaxEntropyConfig

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """−H(p_θ), summed over tokens to predict."""
        return max_entropy_loss(next_token_logits(model, batch), batch["labels"])[0]

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """Tokens to predict."""
        return self.retain_count(batch)
