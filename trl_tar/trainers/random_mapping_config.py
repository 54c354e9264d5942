"""Configuration of [`RandomMappingTrainer`]."""

from dataclasses import dataclass, field
from typing import ClassVar

from ..validation import check_choices
from .forget_config import ForgetConfig


@dataclass
class RandomMappingConfig(ForgetConfig):
    r"""
    Configuration class for the [`RandomMappingTrainer`].

    This class includes only the parameters that are specific to random mapping. For a full list of training arguments,
    please refer to the [`ForgetConfig`], [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`] documentation. Note
    that default values in this class may differ from those.

    Parameters:
        target (`str`, *optional*, defaults to `"token"`):
            `"token"`: one random vector a token id, the same at every layer (the authors' code); `"global"`: one for all
            (Section 3.2 of the paper).
        signed (`bool`, *optional*, defaults to `False`):
            Use 1 − cos (the paper) instead of 1 − |cos| (the authors' code).

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.
    """

    method: ClassVar[str] = "random mapping"

    target: str = field(
        default="token",
        metadata={"help": "One random vector a token id, or one for all.", "choices": ["token", "global"]},
    )
    signed: bool = field(default=False, metadata={"help": "Use 1 - cos instead of 1 - |cos|."})

    def check(self) -> None:
        super().check()
        check_choices(self, ("target",))
