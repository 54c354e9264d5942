"""Configuration of [`TARTrainer`]."""

from dataclasses import dataclass, field
from typing import Any, Self

from ..losses import TAMPER_RESISTANCE_LOSSES, Loss
from ..validation import check_choices, check_not_negative, check_sizes, coerce_numbers
from .presets import preset_settings
from .safeguard_config import SafeguardConfig


@dataclass
class TARConfig(SafeguardConfig):
    r"""
    Configuration class for the [`TARTrainer`].

    This class includes only the parameters that are specific to TAR (https://huggingface.co/papers/2408.00761). For a
    full list of training arguments, please refer to the [`~trl.SFTConfig`] and [`~transformers.TrainingArguments`]
    documentation. Note that default values in this class may differ from those.

    The outer gradient is

        g = λ_TR / S · Σ_s Σ_{k : (k+1) mod interval = 0} w_k ∇L_TR(θ_{k+1})
            + λ_retain ∇[λ_LM · L_LM(θ) + λ_rep · L_rep(θ) + λ_KL · L_KL(θ)]                   k = 0 … K−1

    Parameters:
        tamper_resistance_loss (`str`, *optional*, defaults to `"entropy"`):
            L_TR, taken on the attacked model: `"entropy"` (negative entropy, Eq. 3), `"dpo"` (preference pairs, chosen =
            refusal), `"negative_cross_entropy"` (clamped at log|V|) or `"inverse_cross_entropy"`.
        tamper_resistance_weight (`float`, *optional*, defaults to `4.0`):
            λ_TR. Under exponential weighting with K = 64, interval 4 and rate 1/16 the weights sum to 4.438, so that 4
            acts as 17.75; under uniform weighting 4 acts as 4.
        retain_weight (`float`, *optional*, defaults to `1.0`):
            λ_retain; covers L_LM and both anchors.
        lm_weight (`float`, *optional*, defaults to `1.0`):
            λ_LM, weight of the next-token cross-entropy within the retain loss. With 0 it is logged, and has no gradient.
        representation_weight (`float`, *optional*, defaults to `1.0`):
            λ_rep, weight of the anchor of hidden states within the retain loss. With 0 it is not computed.
        representation_loss (`str`, *optional*, defaults to `"l2"`):
            L_rep, the mean over tokens and hidden states of `"l2"`, ‖h_θ − h_ref‖₂ (as the released runs), `"l2_squared"`, its
            square (Eq. 2), or `"relative"`, ‖h_θ − h_ref‖₂ / ‖h_ref‖₂, whose scale is that of no model.
        kl_weight (`float`, *optional*, defaults to `0.0`):
            λ_KL, weight of the anchor at the output within the retain loss: L_KL = T² KL(p_ref ‖ p_θ) of the next token at
            temperature T, the mean over the tokens to predict. With 0 it is not computed.
        kl_temperature (`float`, *optional*, defaults to `1.0`):
            T, of distillation (https://huggingface.co/papers/1503.02531). Above 1 the anchor also holds the margins of tokens of
            which the reference is all but certain; without them a little harmless fine-tuning loses what is kept.
        tamper_resistance_interval (`int`, *optional*, defaults to `4`):
            Steps of the attack between two evaluations of L_TR.
        tamper_resistance_max_grad_norm (`float`, *optional*, defaults to `0.0`):
            Norm to which g_TR, with what honest users add to it, is clipped before g_retain is added; 0 leaves it. A single attack
            that breaks through can have a gradient many times as long as another's, and `max_grad_norm`, which clips the
            sum, would then leave next to nothing of g_retain.
        tamper_resistance_batch_size (`int`, *optional*, defaults to `8`):
            Rows of x_TR over all devices together. One batch is used for the whole of an attack.
        tamper_resistance_micro_batch_size (`int`, *optional*):
            Rows of x_TR in one forward pass on one device. All of the device's rows by default.
        adversaries_per_step (`int`, *optional*, defaults to `1`):
            S, adversaries drawn from A_train in each outer step.
        adversary_parallel_size (`int`, *optional*, defaults to `1`):
            Groups of devices that simulate different attacks of an outer step at the same time. Divides
            `adversaries_per_step` and the number of devices; the result is that of one group.
        steps_per_visit (`int`, *optional*):
            Continue attacks: an outer step makes so many steps of an attack, and a later one goes on from there, at its own θ.
            `Adversary.num_steps` is then the longest attack, K above is this number, and each attack draws a length, log-
            uniformly; an honest user makes all steps. By default each attack is whole and begins at θ.
        num_attackers (`int`, *optional*, defaults to `6`):
            Continued attackers, visited in turn; a multiple of `adversaries_per_step`. One that reaches its length, or
            diverges, gives way to a new one ~ A_train.
        initial_attack_length (`int`, *optional*):
            Longest attack that is drawn at first, with `attack_length_threshold`. `steps_per_visit` by default.
        attack_length_threshold (`float`, *optional*):
            Let the longest attack grow where the mean of L_TR, over the last 12 evaluations in attacks older than half of it, is
            at most this, in nats: with `"entropy"` a negative number. By default it is `Adversary.num_steps` from the start.
        attack_length_growth (`float`, *optional*, defaults to `1.25`):
            Factor by which it grows.
        benign_weight (`float`, *optional*, defaults to `4.0`):
            Weight of what benign adversaries learn, L_LM on rows of their task that they were not trained on, in the place of
            λ_TR.
        benign_kl_weight (`float`, *optional*, defaults to `4.0`):
            Weight of what they keep, L_KL at θ_k on D_retain, in the same place.
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
    > [`SafeguardConfig`] lists the defaults that differ from those of [`~trl.SFTConfig`].
    """

    tamper_resistance_loss: str = field(
        default="entropy",
        metadata={"help": "Loss on the attacked model.", "choices": [*TAMPER_RESISTANCE_LOSSES]},
    )
    tamper_resistance_weight: float = field(default=4.0, metadata={"help": "Weight of the tamper-resistance term."})
    lm_weight: float = field(default=1.0, metadata={"help": "Weight of the cross-entropy in the retain term."})
    representation_weight: float = field(default=1.0, metadata={"help": "Weight of the anchor in the retain term."})
    representation_loss: str = field(
        default="l2", metadata={"help": "Norm of the anchor.", "choices": ["l2", "l2_squared", "relative"]}
    )
    kl_weight: float = field(default=0.0, metadata={"help": "Weight of the anchor at the output in the retain term."})
    kl_temperature: float = field(default=1.0, metadata={"help": "Temperature of the anchor at the output."})
    tamper_resistance_interval: int = field(
        default=4, metadata={"help": "Attack steps between two evaluations of the tamper-resistance loss."}
    )
    tamper_resistance_max_grad_norm: float = field(
        default=0.0,
        metadata={"help": "Norm to which the gradient of the tamper-resistance term is clipped; 0 for none."},
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
    steps_per_visit: int | None = field(
        default=None, metadata={"help": "Steps of a continued attack in one outer step; whole attacks by default."}
    )
    num_attackers: int = field(default=6, metadata={"help": "Number of continued attackers."})
    initial_attack_length: int | None = field(
        default=None, metadata={"help": "Longest continued attack at the start; one visit by default."}
    )
    attack_length_threshold: float | None = field(
        default=None, metadata={"help": "Tamper-resistance loss at which the longest attack grows."}
    )
    attack_length_growth: float = field(default=1.25, metadata={"help": "Factor by which the longest attack grows."})
    benign_weight: float = field(default=4.0, metadata={"help": "Weight of what benign adversaries learn."})
    benign_kl_weight: float = field(default=4.0, metadata={"help": "Weight of what benign adversaries keep."})
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

    @classmethod
    def from_preset(cls, name: str, output_dir: str | None = None, **settings: Any) -> Self:
        """
        Builds a configuration from the settings of a preset.

        Args:
            name (`str`):
                `"paper"` (Eq. 2 and Algorithm 1), `"released"` (the authors' code) or `"continued"`, see
                [`~trl_tar.trainers.presets`]. A preset sets losses, weights, optimizer and clipping; learning rate, batches and
                number of steps are yours to give.
            output_dir (`str`, *optional*):
                As in [`~transformers.TrainingArguments`].
            **settings:
                Other fields, which take the place of the preset's.

        Raises:
            `ValueError`: for a name that is no preset.

        Example:

        ```python
        args = TARConfig.from_preset("paper", "my-tar-model", max_steps=750, learning_rate=2e-5)
        ```
        """
        return cls(output_dir, **{**preset_settings(name), **settings})

    @property
    def loss(self) -> Loss:
        """L_TR, the row of `TAMPER_RESISTANCE_LOSSES` that `tamper_resistance_loss` names."""
        return TAMPER_RESISTANCE_LOSSES[self.tamper_resistance_loss]

    @property
    def retain_weights(self) -> dict[str, float]:
        """Name → weight of the terms of the retain loss that a step computes; `"lm"` among them, as its value costs nothing."""
        anchors = {"representation": self.representation_weight, "kl": self.kl_weight}
        return {"lm": self.lm_weight, **{name: weight for name, weight in anchors.items() if weight > 0}}

    def check(self) -> None:
        super().check()
        check_choices(self, ("tamper_resistance_loss", "representation_loss", "inner_weighting"))
        retain = ("lm_weight", "representation_weight", "kl_weight")
        outer = ("tamper_resistance_weight", "tamper_resistance_max_grad_norm", "benign_weight", "benign_kl_weight")
        check_not_negative(self, (*outer, *retain, "inner_weighting_rate"))
        if not any(self.retain_weights.values()):
            raise ValueError(
                f"TARConfig has {', '.join(f'{name}=0' for name in retain)}, so nothing keeps what the model knows. Give at "
                "least one of them a weight above 0."
            )
        for name in ("beta", "kl_temperature"):
            coerce_numbers(self, (name,), float)
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"TARConfig has {name}={getattr(self, name)}. Use a finite number above 0.")
        sizes = ("interval", "batch_size", "micro_batch_size")
        adversaries = ("adversaries_per_step", "adversary_parallel_size")
        check_sizes(self, (*(f"tamper_resistance_{size}" for size in sizes), *adversaries))
        if self.adversaries_per_step % self.adversary_parallel_size:
            raise ValueError(
                f"TARConfig has adversaries_per_step={self.adversaries_per_step} with adversary_parallel_size="
                f"{self.adversary_parallel_size}, which leaves groups without an attack. Use a multiple of it."
            )
        self._check_continued()
        if self.optimizer_in_backward:
            self._check_in_backward()

    def _check_continued(self) -> None:
        check_sizes(self, ("steps_per_visit", "num_attackers", "initial_attack_length"))
        coerce_numbers(self, ("attack_length_threshold", "attack_length_growth"), float)
        if not 1 < self.attack_length_growth < float("inf"):
            raise ValueError(f"TARConfig has attack_length_growth={self.attack_length_growth}. Use a number above 1.")
        visit = self.steps_per_visit
        if visit is None:
            return
        setting = f"TARConfig has steps_per_visit={visit} with"
        if visit < self.tamper_resistance_interval:
            raise ValueError(
                f"{setting} tamper_resistance_interval={self.tamper_resistance_interval}: no visit would be judged. Raise the "
                "one or lower the other."
            )
        if self.num_attackers % self.adversaries_per_step:
            raise ValueError(
                f"{setting} num_attackers={self.num_attackers} and adversaries_per_step={self.adversaries_per_step}. Use a "
                "multiple of it."
            )
        if self.initial_attack_length is not None and self.initial_attack_length < visit:
            raise ValueError(
                f"{setting} initial_attack_length={self.initial_attack_length}. Use at least the steps of one visit."
            )
        if self.optimizer_in_backward:
            raise ValueError(f"{setting} optimizer_in_backward=True, which keeps no moments. Leave one of the two out.")

    def _check_in_backward(self) -> None:
        setting = "TARConfig has optimizer_in_backward=True with"
        remedy = "that needs the whole gradient. Leave one of the two out."
        if self.loss.bound is not None:
            raise ValueError(f"{setting} a tamper_resistance_loss that is clamped by its mean: {remedy}")
        size = self.tamper_resistance_micro_batch_size
        if size is not None:
            raise ValueError(
                f"{setting} tamper_resistance_micro_batch_size={size}, which adds up micro-batches: {remedy}"
            )
