"""SimNPO: negative preference optimization without a reference model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from ...distributed.gradients import Batch
from ...losses import IGNORED, sequence_log_probs
from ...models.forward_passes import next_token_logits
from ...validation import check_above_0, check_not_negative
from ..forget_config import ForgetConfig
from ..forget_trainer import ForgetTrainer


@dataclass
class SimNPOConfig(ForgetConfig):
    r"""
    Configuration class for the [`SimNPOTrainer`].

    Parameters:
        beta (`float`, *optional*, defaults to `2.5`):
            β, above 0, of the released code for TOFU. For WMDP, whose rows are long texts, it has 0.1.
        gamma (`float`, *optional*, defaults to `0.0`):
            γ, at least 0, likewise.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.

    > [!NOTE]
    > `forget_weight` defaults to `0.1375` instead of the `1.0` of [`ForgetConfig`]: that of the released code for TOFU.
    """

    method: ClassVar[str] = "SimNPO"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {  # of the released code
        "tofu": {"beta": 2.5, "gamma": 0.0, "forget_weight": 0.1375},
        "wmdp": {"beta": 0.1, "gamma": 0.0, "learning_rate": 9.5e-6},
    }

    beta: float = field(default=2.5, metadata={"help": "Scale of the mean log-probability of a row."})
    gamma: float = field(default=0.0, metadata={"help": "Margin."})
    forget_weight: float = field(default=0.1375, metadata={"help": "Weight of the loss on D_forget."})

    def check(self) -> None:
        super().check()
        check_above_0(self, ("beta",))
        check_not_negative(self, ("gamma",))


class SimNPOTrainer(ForgetTrainer):
    """
    Trainer for SimNPO: rows of hazardous text become unlikely, and the push on a row fades as it does
    (https://huggingface.co/papers/2410.07163), while the next-token loss on retain data stays low.

        L = λ_forget · mean[−(2/β) log σ(−(β/|y|) log π_θ(y) − γ)] + λ_retain · L_LM(θ)        y ~ D_forget

    It is NPO (https://huggingface.co/papers/2404.05868) with log π_θ(y) / |y| and γ instead of the reference model. The
    mean is over rows, and rows without a token to predict do not count. Differences to the released code: γ stands beside β,
    as in the paper, where that has −β · (log π_θ(y) / |y| + γ), so that its γ is β · γ here; and |y| counts the tokens that
    are predicted, where that counts a labelled first token too.

    Arguments and errors are those of [`ForgetTrainer`].
    """

    _tag_names = ["trl", "trl-tar", "sim-npo"]
    _name = "SimNPO"
    config_class = SimNPOConfig

    def forget_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """−(2/β) log σ(−(β/|y|) log π_θ(y) − γ), summed over rows."""
        beta, lengths = self.args.beta, _lengths(batch)
        log_probs = sequence_log_probs(next_token_logits(model, batch), batch["labels"])
        losses = -2 / beta * F.logsigmoid(-beta * log_probs / lengths.clamp(min=1) - self.args.gamma)
        return losses[lengths > 0].sum()

    def forget_count(self, batch: Batch) -> torch.Tensor:
        """Rows with a token to predict."""
        return (_lengths(batch) > 0).sum()


def _lengths(batch: Batch) -> torch.Tensor:
    """|y|, tokens to predict in each row, shape `(B,)`."""
    return (batch["labels"][:, 1:] != IGNORED).sum(1)
