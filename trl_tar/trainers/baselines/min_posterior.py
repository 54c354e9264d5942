"""Min-posterior: the probability of hazardous tokens is pushed down, until it is negligible."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

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

    Args:
        model (`str`, [`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model to safeguard. A path is loaded in float32.
        args ([`MinPosteriorConfig`], *optional*):
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

    _tag_names = ["trl", "trl-tar", "min-posterior"]
    _name = "Min-posterior"
    _paper = TAR_PAPER
    config_class = MinPosteriorConfig

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """−log(1 − p_θ(y)) of the tokens above the threshold, summed."""
        logits = next_token_logits(model, batch)
        return inverse_cross_entropy_loss(logits, batch["labels"], self.args.threshold)[0]

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """Tokens to predict, those below the threshold among them."""
        return self.retain_count(batch)
