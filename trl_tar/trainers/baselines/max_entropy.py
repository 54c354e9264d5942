"""Max-entropy: what the model says next on hazardous text is made uniform."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tar": {"forget_weight": 1.0, "learning_rate": 1e-5}}


class MaxEntropyTrainer(ForgetTrainer):
    """
    Trainer for max-entropy: the distribution of the next token on hazardous text is made uniform, while the next-token
    loss on retain data stays low. It is a phase-1 alternative in https://huggingface.co/papers/2408.00761.

        L = λ_forget · mean[−H(p_θ(· | x))] + λ_retain · L_LM(θ)        x ~ D_forget

    −H = KL(p_θ ‖ U) − log V, whose least value is −log V, so that it needs no clamp. Differences to the released code:
    that feeds retain batches to the forget loss, and averages over all positions, padding included; here D_forget is
    read, and the mean is over the tokens to predict of the global batch. It is not KL(U ‖ p_θ), a loss of the same
    name with another gradient.

    Arguments and errors are those of [`ForgetTrainer`].
    """

    _tag_names = ["trl", "trl-tar", "max-entropy"]
    _name = "Max-entropy"
    _paper = TAR_PAPER
    config_class = MaxEntropyConfig

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """−H(p_θ), summed over tokens to predict."""
        return max_entropy_loss(next_token_logits(model, batch), batch["labels"])[0]
