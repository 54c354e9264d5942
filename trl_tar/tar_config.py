"""Configuration of [`TARTrainer`]."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from .adversary_checks import coerced
from .losses import TAMPER_RESISTANCE_LOSSES


# inherited fields that have no meaning for an objective made of logits and hidden states → the only value they may have
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


@dataclass
class TARConfig(SFTConfig):
    r"""
    Configuration class for the [`TARTrainer`].

    This class includes only the parameters that are specific to TAR (https://huggingface.co/papers/2408.00761). For a
    full list of training arguments, please refer to the [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`]
    documentation. Note that default values in this class may differ from those.

    The outer gradient is

        g = λ_TR / S · Σ_s Σ_{k : (k+1) mod interval = 0} w_k ∇L_TR(θ_{k+1})
            + λ_retain ∇[L_LM(θ) + λ_rep · L_rep(θ)]                                           k = 0 … K−1

    Parameters:
        tamper_resistance_loss (`str`, *optional*, defaults to `"entropy"`):
            L_TR, taken on the attacked model: `"entropy"` (negative entropy, Eq. 3), `"dpo"` (preference pairs, chosen =
            refusal), `"negative_cross_entropy"` (clamped at log|V|) or `"inverse_cross_entropy"`.
        tamper_resistance_weight (`float`, *optional*, defaults to `4.0`):
            λ_TR. Under exponential weighting with K = 64, interval 4 and rate 1/16 the weights sum to 4.438, so that 4
            acts as 17.75; under uniform weighting 4 acts as 4.
        retain_weight (`float`, *optional*, defaults to `1.0`):
            λ_retain; covers L_LM and the anchor.
        representation_weight (`float`, *optional*, defaults to `1.0`):
            λ_rep, weight of the anchor within the retain loss.
        representation_loss (`str`, *optional*, defaults to `"l2"`):
            `"l2"` (unsquared norm, as the released runs) or `"l2_squared"` (Eq. 2).
        tamper_resistance_interval (`int`, *optional*, defaults to `4`):
            Steps of the attack between two evaluations of L_TR.
        tamper_resistance_batch_size (`int`, *optional*, defaults to `8`):
            Rows of x_TR over all devices together. One batch is used for the whole of an attack.
        tamper_resistance_micro_batch_size (`int`, *optional*):
            Rows of x_TR in one forward pass on one device. All of the device's rows by default.
        adversaries_per_step (`int`, *optional*, defaults to `1`):
            S, adversaries drawn from A_train in each outer step.
        adversary_parallel_size (`int`, *optional*, defaults to `1`):
            Groups of devices that simulate different attacks of an outer step at the same time. Divides
            `adversaries_per_step` and the number of devices; the result is that of one group.
        inner_weighting (`str`, *optional*, defaults to `"exponential"`):
            w_k: `"exponential"`, exp(rate · (k − (K − 1))), not normalised, or `"uniform"`, 1 / number of evaluations.
        inner_weighting_rate (`float`, *optional*, defaults to `1/16`):
            Rate of the exponential weights.
        beta (`float`, *optional*, defaults to `0.1`):
            β of the DPO loss.
        offload (`bool`, *optional*, defaults to `False`):
            Keep on the host what an attack does not read: the snapshot, the retain gradient, θ_G0 and the state of the outer
            optimizer. A GPU then holds 20 bytes per parameter under a full-parameter attack in float32, of 40.
        optimizer_in_backward (`bool`, *optional*, defaults to `False`):
            Step each parameter of the attack, and add its gradient of L_TR, as soon as the backward pass knows it: 16 bytes per
            parameter with `offload`, 8 and those of the adapter under a LoRA attack. One device, and no micro-batches.

    Raises:
        `ValueError`: from the trainer, for a value that cannot be trained with.

    > [!NOTE]
    > These parameters have default values different from [`~trl.SFTConfig`]:
    > - `optim`: Defaults to `"schedule_free_adamw"` instead of `"adamw_torch_fused"`.
    > - `lr_scheduler_type`: Defaults to `"constant"` instead of `"linear"`.
    > - `max_grad_norm`: Defaults to `0.0` (no clipping) instead of `1.0`.
    > - `max_length`: Defaults to `256` instead of `1024`.
    > - `activation_checkpointing`: Defaults to `False`; TRL's trainers turn it on.
    """

    tamper_resistance_loss: str = field(
        default="entropy",
        metadata={
            "help": "Loss on the attacked model.",
            "choices": [*TAMPER_RESISTANCE_LOSSES, "dpo"],
        },
    )
    tamper_resistance_weight: float = field(default=4.0, metadata={"help": "Weight of the tamper-resistance term."})
    retain_weight: float = field(default=1.0, metadata={"help": "Weight of the retain term, anchor included."})
    representation_weight: float = field(default=1.0, metadata={"help": "Weight of the anchor in the retain term."})
    representation_loss: str = field(
        default="l2", metadata={"help": "Norm of the anchor.", "choices": ["l2", "l2_squared"]}
    )
    tamper_resistance_interval: int = field(
        default=4, metadata={"help": "Attack steps between two evaluations of the tamper-resistance loss."}
    )
    tamper_resistance_batch_size: int = field(
        default=8, metadata={"help": "Rows of the tamper-resistance batch over all devices."}
    )
    tamper_resistance_micro_batch_size: int | None = field(
        default=None, metadata={"help": "Rows of the tamper-resistance batch in one forward pass on one device."}
    )
    adversaries_per_step: int = field(default=1, metadata={"help": "Adversaries drawn in each outer step."})
    adversary_parallel_size: int = field(
        default=1, metadata={"help": "Groups of devices that simulate different attacks at the same time."}
    )
    inner_weighting: str = field(
        default="exponential",
        metadata={"help": "Weights of the evaluations along an attack.", "choices": ["exponential", "uniform"]},
    )
    inner_weighting_rate: float = field(default=1 / 16, metadata={"help": "Rate of the exponential weights."})
    beta: float = field(default=0.1, metadata={"help": "Beta of the DPO tamper-resistance loss."})

    offload: bool = field(
        default=False,
        metadata={"help": "Keep on the host what an attack does not read. Less device memory, more copies."},
    )
    optimizer_in_backward: bool = field(
        default=False, metadata={"help": "Step the attack's parameters during its backward passes. Less device memory."}
    )

    optim: str = field(default="schedule_free_adamw", metadata={"help": "Outer optimizer."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "Outer learning-rate schedule."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Clipping of the outer gradient; 0 is none."})
    max_length: int | None = field(default=256, metadata={"help": "Longest row in tokens; longer ones are cut."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Old name of activation_checkpointing."})

    def check(self) -> None:
        """Makes numbers of strings, as YAML has them, and raises `ValueError` for values that TAR cannot train with.

        The trainer's constructor calls it."""
        check_refused_fields(self)
        choices = {
            "tamper_resistance_loss": (*TAMPER_RESISTANCE_LOSSES, "dpo"),
            "representation_loss": ("l2", "l2_squared"),
            "inner_weighting": ("exponential", "uniform"),
        }
        check_choices(self, choices)
        weights = ("tamper_resistance_weight", "retain_weight", "representation_weight", "inner_weighting_rate")
        coerce_numbers(self, (*weights, "beta", "learning_rate"), float)
        for name in weights:
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"TARConfig has {name}={getattr(self, name)}. Use a finite number of at least 0.")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"TARConfig has beta={self.beta}. Use a finite number above 0.")
        sizes = ("interval", "batch_size", "micro_batch_size")
        adversaries = ("adversaries_per_step", "adversary_parallel_size")
        check_sizes(self, (*(f"tamper_resistance_{size}" for size in sizes), *adversaries))
        if self.adversaries_per_step % self.adversary_parallel_size:
            raise ValueError(
                f"TARConfig has adversaries_per_step={self.adversaries_per_step} with adversary_parallel_size="
                f"{self.adversary_parallel_size}, which leaves groups without an attack. Use a multiple of it."
            )
        if self.optimizer_in_backward:
            given = "TARConfig has optimizer_in_backward=True with"
            remedy = "that needs the whole gradient. Leave one of the two out."
            if self.tamper_resistance_loss == "negative_cross_entropy":
                raise ValueError(f"{given} a tamper_resistance_loss that is clamped by its mean: {remedy}")
            size = self.tamper_resistance_micro_batch_size
            if size is not None:
                raise ValueError(
                    f"{given} tamper_resistance_micro_batch_size={size}, which adds up micro-batches: {remedy}"
                )


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


def coerce_numbers(args: SFTConfig, names: Iterable[str], to: type) -> None:
    """Makes numbers of the fields' strings; raises `ValueError` where one is no number."""
    for name in names:
        optional = args.__dataclass_fields__[name].default is None
        setattr(args, name, coerced(type(args).__name__, name, getattr(args, name), to, optional))


def check_sizes(args: SFTConfig, names: Iterable[str]) -> None:
    """Raises `ValueError` where a field is no whole number of at least 1; `None` stays."""
    coerce_numbers(args, names, int)
    for name in names:
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ValueError(f"{type(args).__name__} has {name}={value}. Use at least 1.")


def check_choices(args: SFTConfig, choices: dict[str, tuple[str, ...]]) -> None:
    """Raises `ValueError` where a field is none of its choices."""
    for name, allowed in choices.items():
        value = getattr(args, name)
        if value not in allowed:
            raise ValueError(f"{type(args).__name__} has {name}={value!r}. Use one of {', '.join(map(repr, allowed))}.")
