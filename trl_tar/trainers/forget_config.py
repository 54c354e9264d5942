"""What the configurations of defences with a second data set, D_forget, share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..validation import check_not_negative, check_sizes
from .safeguard_config import SafeguardConfig


@dataclass
class ForgetConfig(SafeguardConfig):
    r"""
    Configuration class for a [`ForgetTrainer`]. A defence adds its own parameters in a subclass, and names itself there:
    `method` is what model cards call its loss. Its `presets` are named settings, the paper's first: those are its defaults.

    Parameters:
        forget_weight (`float`, *optional*, defaults to `1.0`):
            λ_forget, weight of the loss on D_forget.
        forget_batch_size (`int`, *optional*):
            Rows of D_forget per device and micro-batch, so that a step draws `forget_batch_size` ×
            `gradient_accumulation_steps` × devices of them (in the last, shorter step of an epoch, × the micro-batches
            that it has). Defaults to `per_device_train_batch_size`.

    > [!NOTE]
    > `learning_rate` defaults to `1e-5` instead of the `2e-5` of [`~trl.SFTConfig`]. [`SafeguardConfig`] lists the other
    > defaults that differ.
    """

    method: ClassVar[str] = "loss on D_forget"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    forget_weight: float = field(default=1.0, metadata={"help": "Weight of the loss on D_forget."})
    forget_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of D_forget per device and micro-batch."}
    )

    # that of the released code's phase 1
    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate."})

    def check(self) -> None:
        super().check()
        check_not_negative(self, ("forget_weight",))
        check_sizes(self, ("forget_batch_size",))

    def to_dict(self) -> dict[str, Any]:
        """The settings, with the `method` that model cards name."""
        return {**super().to_dict(), "method": self.method}
