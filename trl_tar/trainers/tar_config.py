"""Configuration of [`TARTrainer`]."""

from dataclasses import dataclass, field

from trl import SFTConfig

from ..losses import TAMPER_RESISTANCE_LOSSES
from ..validation import check_choices, check_sizes, coerce_numbers
from .refused_options import check_refused_fields


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
