"""Configuration of [`DistillationTrainer`]."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from .safeguard_config import SafeguardConfig


@dataclass
class DistillationConfig(SafeguardConfig):
    r"""
    Configuration class for the [`DistillationTrainer`].

    It has no parameters of its own. For a full list of training arguments, please refer to the [`SafeguardConfig`],
    [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`] documentation. Note that default values in this class may
    differ from those.

    > [!NOTE]
    > `optim` defaults to `"adamw_torch"` instead of the `"schedule_free_adamw"` of [`SafeguardConfig`], which lists the other
    > defaults that differ.
    """

    method: ClassVar[str] = "distillation from the base"

    # a short training, whose last weights are wanted and not an average over all of it
    optim: str = field(default="adamw_torch", metadata={"help": "Optimizer."})

    def to_dict(self) -> dict[str, Any]:
        """The settings, with the `method` that model cards name."""
        return {**super().to_dict(), "method": self.method}
