"""Options of the parent trainer that a safeguard cannot take."""

from collections.abc import Mapping
from typing import Any

from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import SFTConfig


# inherited fields that would change the objective or break the attack → the only value they may have, and why
REFUSED_FIELDS = {
    "packing": (False, "rows of different documents would attack each other"),
    "eval_packing": (None, "rows of different documents would be scored together"),
    "padding_free": (False, "the anchor needs one row a document"),
    "loss_type": ("nll", "the retain loss is that of the paper"),
    "label_smoothing_factor": (0.0, "the retain loss is that of the paper"),
    "neftune_noise_alpha": (None, "noise on the embeddings would reach the anchor and the attack"),
    "activation_offloading": (False, "it patches the forward pass that the attack also uses"),
    "use_liger_kernel": (False, "it replaces the logits that the losses need"),
    "fp16": (False, "its loss scaling would scale the attack; use bf16=True"),
    "deepspeed": (None, "its backward pass steps the optimizer in the middle of an attack; use FSDP2 or DDP"),
    "torch_compile": (False, "accelerate would compile the retain pass, and leave the attack as it is"),
    "router_aux_loss_coef": (None, "the retain loss is that of the paper"),
}


def check_refused_fields(args: SFTConfig) -> None:
    """Raises `ValueError` for inherited options that would change the objective or break the attack."""
    for name, (allowed, reason) in REFUSED_FIELDS.items():
        value: Any = getattr(args, name)
        if value != allowed:
            raise ValueError(f"{type(args).__name__} has {name}={value!r}: {reason}. Leave it at {allowed!r}.")
    if (args.activation_checkpointing_kwargs or {}).get("use_reentrant"):
        raise ValueError(
            f"{type(args).__name__} has activation_checkpointing_kwargs={{'use_reentrant': True}}, which gives no "
            "gradient to the attack. Set use_reentrant to False."
        )
    optim = OptimizerNames(args.optim).value
    if "schedule_free" in optim and (
        SchedulerType(args.lr_scheduler_type) != "constant" or 0 < float(args.warmup_steps) < 1
    ):
        raise ValueError(
            f"{type(args).__name__} has optim={optim!r} with lr_scheduler_type="
            f"{SchedulerType(args.lr_scheduler_type).value!r} and warmup_steps={args.warmup_steps}. Use 'constant' and a "
            "whole number of steps: this optimizer warms up itself."
        )
    if "lomo" in optim or optim.endswith("layerwise"):
        raise ValueError(
            f"{type(args).__name__} has optim={optim!r}, which steps during the backward pass, before the gradient is "
            "complete. Use an optimizer that steps after it."
        )


def check_refused_arguments(trainer: str, arguments: Mapping[str, Any]) -> None:
    """Raises `ValueError` for arguments of [`~trl.SFTTrainer`] that would be accepted and do nothing."""
    if arguments.get("compute_loss_func") is not None:
        raise ValueError(
            f"{trainer} got `compute_loss_func`, which it would never call: its loss is fixed. Leave it out."
        )
