"""Min-posterior: the probability of hazardous tokens is pushed down, until it is negligible."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from ...distributed.gradients import Batch
from ...losses import inverse_cross_entropy_loss
from ...models.forward_passes import next_token_logits
from ...papers import TAR_PAPER
from ...validation import coerce_numbers
from ..forget_config import ForgetConfig
from ..forget_trainer import ForgetTrainer


@dataclass
class MinPosteriorConfig(ForgetConfig):
    r"""
    Configuration class for the [`MinPosteriorTrainer`].

    Parameters:
        threshold (`float`, *optional*, defaults to `-15.0`):
            τ, in nats: a token with log p_θ < τ has no loss. −15 is that of TAR's released code; R2D2
            (https://huggingface.co/papers/2402.04249) has −5.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.
    """

    method: ClassVar[str] = "min-posterior"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tar": {"threshold": -15.0, "learning_rate": 1e-5},
        "r2d2": {"threshold": -5.0},
    }

    threshold: float = field(default=-15.0, metadata={"help": "Log-probability below which a token has no loss."})

    def check(self) -> None:
        super().check()
        coerce_numbers(self, ("threshold",), float)
        if not -math.inf < self.threshold < 0:
            raise ValueError(
                f"{type(self).__name__} has threshold={self.threshold}. Use a finite log-probability below 0."
            )


class MinPosteriorTrainer(ForgetTrainer):
    """
    Trainer for min-posterior: the probability of each hazardous token is pushed down until it is negligible, while the
    next-token loss on retain data stays low. It is a phase-1 alternative in https://huggingface.co/papers/2408.00761.

        L = λ_forget · mean[−log(1 − p_θ(y)) · 1[log p_θ(y) ≥ τ]] + λ_retain · L_LM(θ)        y ~ D_forget

    A token below τ adds 0 and still counts in the mean. Differences to the released code: that evaluates the forget
    loss on the outputs and labels of retain batches; here D_forget is read. log(1 − p) is formed from two logsumexps,
    which stay finite as p → 1.

    Arguments and errors are those of [`ForgetTrainer`].
    """

    _tag_names = ["trl", "trl-tar", "min-posterior"]
    _name = "Min-posterior"
    _paper = TAR_PAPER
    config_class = MinPosteriorConfig

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """−log(1 − p_θ(y)) of the tokens above the threshold, summed."""
        logits = next_token_logits(model, batch)
        return inverse_cross_entropy_loss(logits, batch["labels"], self.args.threshold)[0]
