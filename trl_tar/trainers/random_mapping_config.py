"""Configuration of [`RandomMappingTrainer`]."""

from dataclasses import dataclass, field

from trl import SFTConfig

from ..validation import check_choices, check_sizes, coerce_numbers
from .refused_options import check_refused_fields


@dataclass
class RandomMappingConfig(SFTConfig):
    r"""
    Configuration class for the [`RandomMappingTrainer`].

    This class includes only the parameters that are specific to random mapping. For a full list of training arguments,
    please refer to the [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`] documentation. Note that default
    values in this class may differ from those.

    Parameters:
        forget_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the mapping term.
        retain_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the next-token cross-entropy on D_retain.
        forget_batch_size (`int`, *optional*):
            Rows of D_forget per device and micro-batch. Defaults to `per_device_train_batch_size`.
        target (`str`, *optional*, defaults to `"token"`):
            `"token"`: one random vector a token id, the same at every layer (the authors' code); `"global"`: one for all
            (Section 3.2 of the paper).
        signed (`bool`, *optional*, defaults to `False`):
            Use 1 − cos (the paper) instead of 1 − |cos| (the authors' code).

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `optim`: Defaults to `"schedule_free_adamw"` instead of `"adamw_torch_fused"`.
    > - `learning_rate`: Defaults to `1e-5` instead of `2e-5`.
    > - `lr_scheduler_type`: Defaults to `"constant"` instead of `"linear"`.
    > - `max_grad_norm`: Defaults to `0.0` (no clipping) instead of `1.0`.
    > - `max_length`: Defaults to `256` instead of `1024`.
    > - `activation_checkpointing`: Defaults to `False`; TRL's trainers turn it on.
    """

    forget_weight: float = field(default=1.0, metadata={"help": "Weight of the mapping term."})
    retain_weight: float = field(default=1.0, metadata={"help": "Weight of the retain cross-entropy."})
    forget_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of D_forget per device and micro-batch."}
    )
    target: str = field(
        default="token",
        metadata={"help": "One random vector a token id, or one for all.", "choices": ["token", "global"]},
    )
    signed: bool = field(default=False, metadata={"help": "Use 1 - cos instead of 1 - |cos|."})

    optim: str = field(default="schedule_free_adamw", metadata={"help": "Optimizer."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Learning-rate schedule."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clipping of the gradient; 0 is none."})
    max_length: int | None = field(default=256, metadata={"help": "Longest row in tokens; longer ones are cut."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Old name of activation_checkpointing."})

    def check(self) -> None:
        """Makes numbers of strings, as YAML has them, and raises `ValueError` for values that cannot be trained with.

        The trainer's constructor calls it."""
        check_refused_fields(self)
        check_choices(self, {"target": ("token", "global")})
        coerce_numbers(self, ("forget_weight", "retain_weight", "learning_rate"), float)
        check_sizes(self, ("forget_batch_size",))
        for name in ("forget_weight", "retain_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(
                    f"RandomMappingConfig has {name}={getattr(self, name)}. Use a finite number of at least 0."
                )
