"""CTRAP: after a step on harmful text, the model says one token for everything."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from ...distributed.gradients import Batch
from ...losses import IGNORED
from ...simulation.displaced import stepped
from ...validation import check_above_0
from ..added_gradient_trainer import AddedGradientTrainer, cross_entropy
from ..forget_config import ForgetConfig


@dataclass
class CTRAPConfig(ForgetConfig):
    r"""
    Configuration class for the [`CTRAPTrainer`]. Its defaults are `presets["paper"]`; `CTRAPConfig(…, **CTRAPConfig.presets["released"])` is what
    the released code does.

    Parameters:
        step_size (`float`, *optional*, defaults to `0.1`):
            α, size of the step on D_forget, above 0.
        normalised (`bool`, *optional*, defaults to `False`):
            Divide the step by the length of the gradient, as the released code does.
        collapse_text (`str`, *optional*, defaults to `"an error"`):
            Text whose last token is e, the one that the model falls to. A tokenizer that does not know it gives its unknown
            token.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.

    > [!NOTE]
    > `forget_weight` defaults to `0.1` instead of the `1.0` of [`ForgetConfig`].
    """

    method: ClassVar[str] = "CTRAP"
    # https://huggingface.co/papers/2505.16559, and its released code
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"step_size": 0.1, "forget_weight": 0.1, "normalised": False},
        "released": {"step_size": 0.1, "forget_weight": 0.1, "normalised": True},
    }

    step_size: float = field(default=0.1, metadata={"help": "Size of the step on D_forget."})
    normalised: bool = field(default=False, metadata={"help": "Divide the step by the gradient's length."})
    collapse_text: str = field(default="an error", metadata={"help": "Text that ends in the token of the collapse."})
    forget_weight: float = field(default=0.1, metadata={"help": "Weight of the collapse after the step."})

    def check(self) -> None:
        super().check()
        check_above_0(self, ("step_size",))


class CTRAPTrainer(AddedGradientTrainer):
    """
    Trainer for CTRAP: after a step on hazardous text, the model says one token e for everything
    (https://huggingface.co/papers/2505.16559), while the next-token loss on retain data stays low before it.

        L = λ_retain L_LM(θ; D_retain) + λ_forget mean[−log p_θ′(e | ·)]        θ′ = θ − α ∇L_LM(θ; D_forget)

    The second mean is over the tokens to predict of the same D_retain, at the weights θ′, and its gradient is taken straight
    through the step (first order). Before an attack the model is the retain term's alone. Differences to the released code: that
    normalises the step, which is `normalised` here, and prints its two losses under each other's name; the gradient and its norm
    are of the global batch, and θ is put back bitwise.

    Arguments and errors are those of [`ForgetTrainer`].
    """

    _tag_names = ["trl", "trl-tar", "ctrap"]
    _name = "CTRAP"
    config_class = CTRAPConfig

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        text = self.args.collapse_text
        ids = self.processing_class.encode(text, add_special_tokens=False)
        if not ids:
            raise ValueError(f"CTRAPConfig has collapse_text={text!r}, which has no token. Give a word.")
        self.collapse_id = ids[-1]  # e

    def added_gradient(self, retain: list[Batch], forget: list[Batch]) -> list[torch.Tensor]:
        """λ_forget ∇ mean[−log p_θ′(e | ·)], at θ′."""
        args = self.args
        loss, harm = self.gradient_of(forget)
        collapsed = [{**batch, "labels": self._collapsed(batch["labels"])} for batch in retain]
        with stepped(self.parameters, harm, args.step_size, args.normalised):
            collapse_loss, added = self.gradient_of(collapsed, cross_entropy)
        self._log("forget_loss", loss)
        self._log("collapse_loss/after_step", collapse_loss)
        for g in added:
            g.mul_(args.forget_weight)
        return added

    def _collapsed(self, labels: torch.Tensor) -> torch.Tensor:
        return labels.masked_fill(labels != IGNORED, self.collapse_id)
