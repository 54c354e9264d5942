"""Gradient difference: up the cross-entropy of hazardous text, down that of retain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {"forget_weight": 1.0, "retain_weight": 1.0}}


class GradDiffTrainer(ForgetTrainer):
    """
    Trainer for gradient difference: the next-token loss on hazardous text goes up, while that on retain data goes down
    (https://huggingface.co/papers/2203.12817, and as a baseline in https://huggingface.co/papers/2401.06121).

        L = −λ_forget · L_LM(θ; D_forget) + λ_retain · L_LM(θ; D_retain)

    The first term has no lower bound, so long runs or a large λ_forget break the model: read the retain loss beside it.
    Difference to the baseline's released code: that takes means of micro-batches; here both are over the tokens of the
    global batch.

    Arguments and errors are those of [`ForgetTrainer`].
    """

    _tag_names = ["trl", "trl-tar", "grad-diff"]
    _name = "Gradient difference"
    config_class = GradDiffConfig

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """−L_CE, summed over tokens to predict."""
        return negative_cross_entropy_loss(next_token_logits(model, batch), batch["labels"])[0]
