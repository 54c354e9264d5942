"""One description of an attacker, read by training (simulated in place) and by the red team (run by a TRL trainer)."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ..validation import coerced
from .checks import check_adversary


class AttackDiverged(Exception):
    """The adversary's loss, or the gradient of the tamper-resistance loss, is not finite."""


@dataclass(frozen=True)
class Adversary:
    """An attacker who fine-tunes the released weights.

    Args:
        name (`str`):
            Unique name, used in logs and reports.
        dataset (`str`, *optional*):
            Name of the data set that the attacker trains on, a key of `adversary_datasets` (training) or `datasets`
            (red team). Exclusive with `mixture`.
        objective (`str`, *optional*, defaults to `"sft"`):
            `"sft"` (next-token cross-entropy), `"dpo"` (https://huggingface.co/papers/2305.18290, the data set holds
            preference pairs and the reference is the model under attack) or `"grpo"`
            (https://huggingface.co/papers/2402.03300, on `reward`; red team only).
        learning_rate (`float`, *optional*, defaults to `2e-5`):
            Peak learning rate.
        num_steps (`int`, *optional*, defaults to `64`):
            Optimizer steps, K in the paper. 0 means no attack: the tamper-resistance loss is taken at θ itself.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows of one step over all devices together.
        micro_batch_size (`int`, *optional*):
            Rows of one forward pass on one device. All of the device's rows by default.
        optimizer (`str`, *optional*, defaults to `"adamw"`):
            `"adamw"`, `"adamw_8bit"` (of bitsandbytes: 2 bytes of state per parameter instead of 8), `"schedule_free_adamw"`,
            `"sgd"`, `"adadelta"` or `"adagrad"`.
        momentum (`float`, *optional*, defaults to `0.0`):
            For `"sgd"`.
        nesterov (`bool`, *optional*, defaults to `False`):
            For `"sgd"` with momentum.
        lr_scheduler (`str`, *optional*, defaults to `"constant"`):
            `"constant"`, `"constant_with_warmup"`, `"cosine"` or `"cosine_with_restarts"` (four cycles; both with
            warm-up), as in transformers.
        warmup_steps (`int`, *optional*, defaults to `0`):
            Steps of linear warm-up.
        weight_decay (`float`, *optional*, defaults to `0.01`):
            Not applied to norms and biases, as in every Hugging Face trainer.
        max_grad_norm (`float`, *optional*, defaults to `0.0`):
            Clipping of the gradient norm; 0 is none.
        lora_r (`int`, *optional*):
            Rank of a LoRA attack; `None` is a full-parameter attack.
        lora_alpha (`int`, *optional*):
            Defaults to twice the rank.
        lora_dropout (`float`, *optional*, defaults to `0.0`):
            Dropout of the adapter.
        lora_target_modules (`str` or `tuple[str, ...]`, *optional*, defaults to `"all-linear"`):
            As in [`~peft.LoraConfig`].
        quantization (`str`, *optional*):
            `"nf4"`: attack a 4-bit base through LoRA. Red team only.
        beta (`float`, *optional*, defaults to `0.1`):
            β of the DPO objective.
        mixture (`dict[str, float]`, *optional*):
            Share of each data set in every batch, for example `{"forget": 0.5, "retain": 0.5}`.
        first_dataset (`str`, *optional*):
            Data set of the first part of the attack, as in the paper's retain→forget attacks.
        switch_at (`float` or `str`, *optional*, defaults to `"beta"`):
            Share of the steps after which `first_dataset` gives way to `dataset`; `"beta"` draws it from Beta(6, 3)
            for each attack. Used only with `first_dataset`.
        weight (`float`, *optional*, defaults to `1.0`):
            Unnormalised probability of being drawn from A_train.
        use_dora (`bool`, *optional*, defaults to `False`):
            Weight-decomposed LoRA (https://huggingface.co/papers/2402.09353). Red team only.
        num_virtual_tokens (`int`, *optional*):
            Prompt tuning: only this many embeddings in front of the text are trained, as a soft prompt. Red team only.
        reward (`str`, *optional*):
            Name of the reward function of a `"grpo"` attack, a key of `rewards` of the red team.
        num_generations (`int`, *optional*, defaults to `8`):
            Answers to each prompt in a `"grpo"` attack. `batch_size` counts answers.
        max_completion_length (`int`, *optional*, defaults to `64`):
            Longest answer in a `"grpo"` attack, in tokens.
        edit (`str`, *optional*):
            Change of the weights before any training step: `"int8"` and `"nf4"` (rounded there and back), `"prune"` (the
            smallest are set to 0), `"noise"` (Gaussian), `"interpolate"` (towards the base), `"strip_delta"` (the
            largest singular directions of the difference to the base are removed) or `"abliterate"` (the direction that
            tells `dataset` from `contrast_dataset` is fitted on the model under attack and removed). Red team only.
        edit_strength (`float`, *optional*):
            Of `"prune"`: share of each matrix; `"noise"`: standard deviation as a share of the matrix's own;
            `"interpolate"`: share of the base; `"strip_delta"`: number of directions.
        contrast_dataset (`str`, *optional*):
            What the hazardous `dataset` of `"abliterate"` is told from.
        prompt_template (`str`, *optional*):
            What the attacker writes around every question, `{prompt}` in its place: a jailbreak, examples, or the beginning
            of the answer. It does not change the rows that are trained on. With `num_steps=0`, an attack by input alone.
            Red team only.
        after ([`Adversary`], *optional*):
            An attack that is made first; this one goes on from there. Red team only.

    Raises:
        `ValueError`: for a value that no attack can have, or fields that contradict each other.

    Example:

    ```python
    >>> from trl_tar import Adversary, sweep

    >>> mix = Adversary("mix", mixture={"forget": 0.5, "retain": 0.5}, learning_rate=1e-3)
    >>> [a.name for a in sweep(mix, lora_r=[None, 16])]
    ['mix-lora_r=None', 'mix-lora_r=16']
    ```
    """

    name: str
    dataset: str | None = None
    objective: str = "sft"
    learning_rate: float = 2e-5
    num_steps: int = 64
    batch_size: int = 8
    micro_batch_size: int | None = None
    optimizer: str = "adamw"
    momentum: float = 0.0
    nesterov: bool = False
    lr_scheduler: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.01
    max_grad_norm: float = 0.0
    lora_r: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    lora_target_modules: str | tuple[str, ...] = "all-linear"
    quantization: str | None = None
    beta: float = 0.1
    mixture: Mapping[str, float] | None = None
    first_dataset: str | None = None
    switch_at: float | str = "beta"
    weight: float = 1.0
    use_dora: bool = False
    num_virtual_tokens: int | None = None
    reward: str | None = None
    num_generations: int = 8
    max_completion_length: int = 64
    edit: str | None = None
    edit_strength: float | None = None
    contrast_dataset: str | None = None
    prompt_template: str | None = None
    after: "Adversary | None" = None

    def __post_init__(self):
        for name in ("learning_rate", "momentum", "weight_decay", "max_grad_norm", "lora_dropout", "beta", "weight"):
            self._coerce(name, float)
        self._coerce("edit_strength", float)
        for name in ("num_steps", "batch_size", "micro_batch_size", "warmup_steps", "lora_r", "lora_alpha"):
            self._coerce(name, int)
        for name in ("num_virtual_tokens", "num_generations", "max_completion_length"):
            self._coerce(name, int)
        if isinstance(self.after, Mapping):  # as YAML and JSON have it
            object.__setattr__(self, "after", Adversary(**self.after))
        if self.switch_at != "beta":
            self._coerce("switch_at", float)
        if self.mixture is not None:
            self._coerce_mixture()
        if isinstance(self.lora_target_modules, list):  # as YAML and JSON have it
            object.__setattr__(self, "lora_target_modules", tuple(self.lora_target_modules))
        if self.lora_r is not None and self.lora_alpha is None:
            object.__setattr__(self, "lora_alpha", 2 * self.lora_r)
        check_adversary(self)

    def _coerce(self, name: str, to: type) -> None:
        optional = type(self).__dataclass_fields__[name].default is None
        value = coerced(f"Adversary {self.name!r}", name, getattr(self, name), to, optional)
        object.__setattr__(self, name, value)

    def _coerce_mixture(self) -> None:
        try:
            shares = {name: float(share) for name, share in self.mixture.items()}
        except (AttributeError, TypeError, ValueError):
            raise ValueError(
                f"Adversary {self.name!r} has mixture={self.mixture!r}. Give it as data set → share, each share a number."
            ) from None
        object.__setattr__(self, "mixture", shares)

    @property
    def needs_data(self) -> bool:
        """Whether the attack reads rows, of `dataset` or `mixture`."""
        return self.is_trained or self.edit == "abliterate"

    @property
    def is_trained(self) -> bool:
        """Whether rows are trained on, or would be: the K = 0 control names some."""
        return self.num_steps > 0 or (self.edit is None and self.prompt_template is None)

    @property
    def sequence(self) -> tuple["Adversary", ...]:
        """The attacks that are made one after the other; this one is the last."""
        return (self,) if self.after is None else (*self.after.sequence, self)

    @property
    def reads(self) -> dict[str, str]:
        """Every data set that the attack and those before it read → the objective that it is prepared for."""
        reads = {} if self.after is None else dict(self.after.reads)
        reads.update(dict.fromkeys(self.datasets, self.objective))
        if self.edit == "abliterate":
            reads.update({self.dataset: "sft", self.contrast_dataset: "sft"})
        return reads

    @property
    def needs_base(self) -> bool:
        """Whether the attack reads the public base model."""
        return self.edit in ("interpolate", "strip_delta") or (self.after is not None and self.after.needs_base)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Names of all data sets whose rows the attack is trained on."""
        if not self.is_trained:
            return ()
        if self.mixture is not None:
            return tuple(self.mixture)
        assert self.dataset is not None  # _check
        return (self.dataset,) if self.first_dataset is None else (self.first_dataset, self.dataset)

    def kind(self) -> dict[str, Any]:
        """What makes two adversaries the same attack: its data, objective, optimizer and adapter.

        Left out are name, weight, number of steps and micro-batches, and every field that does nothing in this attack:
        `beta` without DPO, `switch_at` without `first_dataset`, the fields of LoRA without `lora_r`. The shares of a
        mixture sum to 1. An attack of the red team counts as seen in training if some training adversary has the same
        kind."""
        kind = asdict(self)
        unused = ["name", "weight", "num_steps", "micro_batch_size"]
        if self.objective != "dpo":
            unused.append("beta")
        if self.first_dataset is None:
            unused.append("switch_at")
        if self.lora_r is None:
            unused += ["lora_alpha", "lora_dropout", "lora_target_modules"]
        if self.objective != "grpo":
            unused += ["reward", "num_generations", "max_completion_length"]
        for name in unused:
            del kind[name]
        if self.after is not None:
            kind["after"] = self.after.kind()
        if self.mixture is not None:
            total = sum(self.mixture.values())
            kind["mixture"] = {name: round(share / total, 9) for name, share in self.mixture.items()}
        return kind

    def __hash__(self):
        values = (getattr(self, field.name) for field in fields(self))
        return hash(tuple(frozenset(v.items()) if isinstance(v, Mapping) else v for v in values))

    def rows_per_batch(self) -> dict[str, int]:
        """Rows of each data set in one batch; of a mixture by largest remainders, the first named wins a tie."""
        if self.mixture is None:
            if not self.datasets:
                return {}
            prompts = self.batch_size // self.num_generations
            return {self.dataset: prompts if self.objective == "grpo" else self.batch_size}
        total = sum(self.mixture.values())
        exact = {name: share / total * self.batch_size for name, share in self.mixture.items()}
        rows = {name: int(value) for name, value in exact.items()}
        by_remainder = sorted(exact, key=lambda name: rows[name] - exact[name])
        for name in by_remainder[: self.batch_size - sum(rows.values())]:
            rows[name] += 1
        return rows


def sweep(adversary: Adversary, **values: list) -> list[Adversary]:
    """All combinations of `values` over one adversary; each name says what differs.

    Args:
        adversary ([`Adversary`]):
            The one to vary.
        **values (`list`):
            Field name → values to try.

    Returns:
        `list[Adversary]`

    Raises:
        `ValueError`: for a name that is no field or is `name`, for values that are no list, and for an attack that cannot be.
    """
    unknown = set(values) - {field.name for field in fields(Adversary)}
    if unknown:
        raise ValueError(f"sweep() got {sorted(unknown)[0]!r}, which is not a field of Adversary. Check its spelling.")
    if "name" in values:
        raise ValueError(
            f"sweep() got name={values['name']!r}. Leave it out: each name is made of the values that differ."
        )
    for name, tried in values.items():
        if isinstance(tried, str) or not isinstance(tried, Iterable):
            raise ValueError(f"sweep() got {name}={tried!r}. Give a list of values.")
    adversaries = []
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        if "lora_r" in chosen and "lora_alpha" not in chosen:
            chosen["lora_alpha"] = None  # twice the new rank, not the old one's
        label = "-".join(f"{name}={chosen[name]}" for name in values)
        adversaries.append(replace(adversary, **chosen, name=f"{adversary.name}-{label}"))
    return adversaries
