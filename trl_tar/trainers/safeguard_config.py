"""What the configurations of all trainers of safeguards share."""

from dataclasses import dataclass, field

from trl import SFTConfig

from ..validation import check_not_negative, coerce_numbers
from .refused_options import check_refused_fields


@dataclass
class SafeguardConfig(SFTConfig):
    r"""
    Base class of [`TARConfig`] and [`ForgetConfig`].

    This class includes only the parameters that are specific to safeguards. For a full list of training arguments,
    please refer to the [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`] documentation. Note that default
    values in this class may differ from those.

    Parameters:
        retain_weight (`float`, *optional*, defaults to `1.0`):
            λ_retain, weight of the loss on D_retain.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `optim`: Defaults to `"schedule_free_adamw"` instead of `"adamw_torch_fused"`.
    > - `lr_scheduler_type`: Defaults to `"constant"` instead of `"linear"`.
    > - `max_grad_norm`: Defaults to `0.0` (no clipping) instead of `1.0`.
    > - `max_length`: Defaults to `256` instead of `1024`.
    > - `activation_checkpointing`: Defaults to `False`; TRL's trainers turn it on.
    """

    retain_weight: float = field(default=1.0, metadata={"help": "Weight of the retain term."})

    # optimizer, schedule, clipping and length are those of TAR's released runs
    optim: str = field(default="schedule_free_adamw", metadata={"help": "Optimizer."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clipping of the gradient; 0 is none."})
    max_length: int | None = field(default=256, metadata={"help": "Longest row in tokens; longer ones are cut."})
    # a choice: recomputing activations trades time for memory, also in every pass of an attack
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Old name of activation_checkpointing."})

    def check(self) -> None:
        """Makes numbers of strings, as YAML has them, and raises `ValueError` for values that cannot be trained with.

        The trainer's constructor calls it."""
        check_refused_fields(self)
        coerce_numbers(self, ("learning_rate",), float)
        check_not_negative(self, ("retain_weight",))
