"""One description of an attacker, read by training (simulated in place) and by the red team (run by a TRL trainer)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..validation import coerced
from .choices import EDITS, LR_SCHEDULERS, OBJECTIVES, OPTIMIZERS, OPTUNA, QUANTIZATIONS, ROLES
from .contradictions import check_adversary
from .mixtures import normalised, rows_of, shares, with_numbers
from .options import Concept, Option, numbers, option, options_of
from .prompt_template import PROMPT
from .rules import ABOVE_0, BELOW_1, NOT_NEGATIVE, at_least, function, pattern, rule


SGD_ALONE = "momentum or nesterov with optimizer={optimizer!r}. Use them with optimizer='sgd'."


def _by_sgd(a: "Adversary") -> bool:
    return a.optimizer == "sgd"


def _by_lora(a: "Adversary") -> bool:
    return a.lora_r is not None


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
            `"sft"` (next-token cross-entropy), `"dpo"` (https://huggingface.co/papers/2305.18290, the data set holds pairs and
            the reference is the model under attack) or, of the red team only, `"grpo"` (https://huggingface.co/papers/2402.03300,
            on `reward`) and `"distillation"` (towards the next-token distribution of the public base).
        learning_rate (`float`, *optional*, defaults to `2e-5`):
            Peak learning rate.
        num_steps (`int`, *optional*, defaults to `64`):
            Optimizer steps, K in the paper. 0 means no attack: the tamper-resistance loss is taken at θ itself.
        batch_size (`int`, *optional*, defaults to `8`):
            Rows of one step over all devices together.
        micro_batch_size (`int`, *optional*):
            Rows of one forward pass on one device. All of the device's rows by default.
        optimizer (`str`, *optional*, defaults to `"adamw"`):
            A key of `OPTIMIZERS` in `adversaries/choices.py`, such as `"schedule_free_adamw"`, `"sgd"` or `"adamw_8bit"`
            (of bitsandbytes: 2 bytes of state per parameter instead of 8).
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
            Share of A_train, not normalised: of the attacks, or where they are continued, of the visits. An honest user has it once
            the curriculum has reached the longest attack, and less before.
        role (`str`, *optional*, defaults to `"attack"`):
            `"benign"`: an honest user, who learns a harmless task and keeps what the model can do. Training only.
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
            Change of the weights before any training step, such as `"prune"` or `"abliterate"`: a key of `EDITS` in
            `adversaries/choices.py`, which says what each does. Red team only.
        edit_strength (`float`, *optional*):
            Strength of the edit, for those that take one: a share for `"prune"`, a number of directions for
            `"strip_delta"`.
        contrast_dataset (`str`, *optional*):
            Harmless rows that `"abliterate"` tells the hazardous `dataset` from.
        edit_trials (`int`, *optional*, defaults to `0`):
            Trials in which `"abliterate"` searches for the layers and weights that bring back most, see
            `red_teaming/abliteration_search.py`; 0 removes one direction everywhere. Needs `trl-tar[search]`.
        prompt_template (`str`, *optional*):
            Text that the attacker writes around every question, `{prompt}` in its place: a jailbreak, examples, or the
            beginning of the answer. It does not change the rows that are trained on. With `num_steps=0`, an attack by input alone.
            Red team only.
        factors (`int`, *optional*):
            Train each linear layer, the head aside, as a product of so many matrices, which computes the same at first and is
            multiplied out at the end. Red team only.
        pure_bf16 (`bool`, *optional*, defaults to `False`):
            Weights and the optimizer's state in bfloat16, as an attacker with little memory has them. Red team only.
        custom (`str`, *optional*):
            An attack from outside the package, `"my_package.attacks:one_step_to_the_side"`, which takes the place of training;
            `red_teaming/custom_attacks.py` has its signature. Red team only.
        options (`dict`, *optional*):
            Further arguments of `custom`: numbers, texts and truth values.
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

    name: str = field(metadata={"option": Option(Concept.LABEL, in_kind=False)})
    dataset: str | None = option(None, Concept.DATASET)
    objective: str = option("sft", Concept.OBJECTIVE, choices=OBJECTIVES)
    learning_rate: float = option(2e-5, Concept.OPTIMIZATION, ABOVE_0)
    num_steps: int = option(64, Concept.OPTIMIZATION, at_least(0), most=10**5, in_kind=False)
    batch_size: int = option(8, Concept.OPTIMIZATION, at_least(1), most=4096)
    micro_batch_size: int | None = option(None, Concept.EXECUTION, at_least(1), in_kind=False)
    optimizer: str = option("adamw", Concept.OPTIMIZATION, choices=OPTIMIZERS, words="{optimizer}")
    momentum: float = option(
        0.0, Concept.STEP, NOT_NEGATIVE, when=_by_sgd, elsewhere=SGD_ALONE, words="momentum {momentum:g}"
    )
    nesterov: bool = option(False, Concept.STEP, when=_by_sgd, elsewhere=SGD_ALONE, words="nesterov {nesterov:g}")
    lr_scheduler: str = option(
        "constant",
        Concept.OPTIMIZATION,
        choices=LR_SCHEDULERS,
        when=lambda a: a.optimizer != "schedule_free_adamw",
        elsewhere="lr_scheduler={lr_scheduler!r} with optimizer='schedule_free_adamw'. Use lr_scheduler='constant': this "
        "optimizer applies warmup_steps itself, and they would count twice.",
    )
    warmup_steps: int = option(
        0,
        Concept.OPTIMIZATION,
        NOT_NEGATIVE,
        when=lambda a: a.lr_scheduler != "constant" or a.optimizer == "schedule_free_adamw",
        elsewhere="warmup_steps={warmup_steps} with lr_scheduler='constant'. Use lr_scheduler='constant_with_warmup'.",
    )
    weight_decay: float = option(0.01, Concept.STEP, NOT_NEGATIVE, words="weight decay {weight_decay:g}")
    max_grad_norm: float = option(0.0, Concept.STEP, NOT_NEGATIVE, words="max grad norm {max_grad_norm:g}")
    lora_r: int | None = option(None, Concept.LORA, at_least(1), most=4096)
    lora_alpha: int | None = option(None, Concept.LORA, at_least(1), when=_by_lora)
    lora_dropout: float = option(0.0, Concept.LORA, NOT_NEGATIVE, BELOW_1, when=_by_lora)
    lora_target_modules: str | tuple[str, ...] = option(
        "all-linear", Concept.LORA, rule(bool, "Give 'all-linear' or names of modules."), pattern, when=_by_lora
    )
    quantization: str | None = option(
        None,
        Concept.ADAPTER,
        choices=QUANTIZATIONS,
        in_training=False,
        when=_by_lora,
        elsewhere="quantization={quantization!r} without lora_r. Set lora_r: 4-bit weights take no gradient.",
        words="base in {quantization}",
    )
    beta: float = option(0.1, Concept.OBJECTIVE, ABOVE_0, when=lambda a: a.objective == "dpo")
    mixture: Mapping[str, float] | None = option(None, Concept.SHARES, shares)
    first_dataset: str | None = option(None, Concept.DATASET)
    switch_at: float | str = option(
        "beta",
        Concept.SHARES,
        rule(lambda at: at == "beta" or 0 <= at <= 1, "Use a share of the steps in [0, 1], or 'beta'."),
        when=lambda a: a.first_dataset is not None,
    )
    weight: float = option(1.0, Concept.LABEL, ABOVE_0, in_kind=False)
    role: str = option(
        "attack",
        Concept.LABEL,
        choices=ROLES,
        in_kind=False,
        when=lambda a: a.objective == "sft" and a.num_steps > 0 and (a.mixture, a.first_dataset) == (None, None),
        elsewhere="role={role!r}, which takes steps on one data set of text. Use objective='sft' and dataset alone.",
    )
    use_dora: bool = option(
        False, Concept.LORA, in_training=False, when=_by_lora, elsewhere="use_dora=True without lora_r. Set lora_r."
    )
    num_virtual_tokens: int | None = option(
        None,
        Concept.ADAPTER,
        at_least(1),
        in_training=False,
        most=4096,
        words="soft prompt of {num_virtual_tokens} tokens",
    )
    reward: str | None = option(None, Concept.OBJECTIVE, when=lambda a: a.objective == "grpo")
    num_generations: int = option(8, Concept.OBJECTIVE, at_least(2), when=lambda a: a.objective == "grpo", most=1024)
    max_completion_length: int = option(
        64, Concept.OBJECTIVE, at_least(1), when=lambda a: a.objective == "grpo", most=2**16
    )
    edit: str | None = option(None, Concept.EDIT, choices=EDITS, in_training=False)
    edit_strength: float | None = option(
        None,
        Concept.EDIT,
        when=lambda a: a.edit is not None,
        elsewhere="edit_strength={edit_strength!r} without edit. Name the edit.",
    )
    contrast_dataset: str | None = option(
        None,
        Concept.DATASET,
        when=lambda a: a.edit is not None,
        elsewhere="contrast_dataset={contrast_dataset!r} without edit. Name the edit.",
    )
    edit_trials: int = option(
        0,
        Concept.EDIT,
        NOT_NEGATIVE,
        most=10**3,
        when=lambda a: a.edit == "abliterate",
        elsewhere="edit_trials={edit_trials} with edit={edit!r}. Use it with edit='abliterate'.",
        words="best of {edit_trials} trials",
        package=OPTUNA,
    )
    prompt_template: str | None = option(
        None,
        Concept.PROMPT,
        rule(lambda text: text.count(PROMPT) == 1, f"Write {PROMPT} once, where the question goes."),
        in_training=False,
        words="prompt “{prompt_template}”",
    )
    factors: int | None = option(
        None, Concept.ADAPTER, at_least(2), in_training=False, most=8, words="layers as products of {factors} matrices"
    )
    pure_bf16: bool = option(False, Concept.STEP, in_training=False, words="pure bf16")
    custom: str | None = option(None, Concept.CUSTOM, function, in_training=False, words="custom attack {custom}")
    options: Mapping[str, str | float | bool | None] | None = option(
        None,
        Concept.CUSTOM,
        in_training=False,
        when=lambda a: a.custom is not None,
        elsewhere="options={options!r} without custom. Name the attack that takes them.",
        words="with {options}",
    )
    after: "Adversary | None" = option(None, Concept.SEQUENCE, in_training=False)

    def __post_init__(self):
        owner = f"Adversary {self.name!r}"
        values: dict[str, Any] = numbers(owner, self)
        if self.switch_at != "beta":
            values["switch_at"] = coerced(owner, "switch_at", self.switch_at, float)
        if self.mixture is not None:
            values["mixture"] = with_numbers(owner, self.mixture)
        if isinstance(self.lora_target_modules, list):  # as YAML and JSON have it
            values["lora_target_modules"] = tuple(self.lora_target_modules)
        if isinstance(self.after, Mapping):  # as YAML and JSON have it
            values["after"] = Adversary(**self.after)
        if values["lora_r"] is not None and values["lora_alpha"] is None:
            values["lora_alpha"] = 2 * values["lora_r"]
        for name, value in values.items():  # the class is frozen for everybody else
            object.__setattr__(self, name, value)
        check_adversary(self)

    @property
    def needs_data(self) -> bool:
        """Tells whether the attack reads rows, of `dataset` or `mixture`."""
        return self.is_trained or self._edit_reads_data

    @property
    def _edit_reads_data(self) -> bool:
        return self.edit is not None and EDITS[self.edit].needs_data

    @property
    def is_trained(self) -> bool:
        """Tells whether rows are trained on, or would be: the K = 0 control names some."""
        return self.num_steps > 0 or (self.edit is None and self.prompt_template is None)

    @property
    def sequence(self) -> tuple["Adversary", ...]:
        """The attacks that are made one after the other; this one is the last."""
        return (self,) if self.after is None else (*self.after.sequence, self)

    @property
    def reads(self) -> dict[str, str]:
        """The data sets that the attack and those before it read, each with the objective that its rows are prepared for."""
        reads = {} if self.after is None else dict(self.after.reads)
        reads.update(dict.fromkeys(self.datasets, OBJECTIVES[self.objective].rows))
        if self._edit_reads_data:
            reads.update({name: "sft" for name in (self.dataset, self.contrast_dataset) if name is not None})
        return reads

    @property
    def needs_base(self) -> bool:
        """Tells whether the attack, or one before it, reads the public base model."""
        return any(OBJECTIVES[a.objective].needs_base or (a.edit and EDITS[a.edit].needs_base) for a in self.sequence)

    @property
    def datasets(self) -> tuple[str, ...]:
        """The names of all data sets whose rows the attack is trained on."""
        if not self.is_trained:
            return ()
        if self.mixture is not None:
            return tuple(self.mixture)
        assert self.dataset is not None  # check_adversary
        return (self.dataset,) if self.first_dataset is None else (self.first_dataset, self.dataset)

    def kind(self) -> dict[str, Any]:
        """The fields that make two adversaries the same attack: its data, objective, optimizer and adapter.

        Name, weight, number of steps and micro-batches are left out, and so is every field that is ignored in this attack:
        `beta` without DPO, `switch_at` without `first_dataset`, the fields of LoRA without `lora_r`. The shares of a
        mixture sum to 1. An attack of the red team counts as seen in training if some training adversary has the same
        kind.

        Returns:
            `dict[str, Any]`: field → value.
        """
        values, options = asdict(self), options_of(self)
        kind = {
            name: value for name, value in values.items() if options[name].in_kind and not options[name].ignored(self)
        }
        if self.after is not None:
            kind["after"] = self.after.kind()
        if self.mixture is not None:
            kind["mixture"] = {name: round(share, 9) for name, share in normalised(self.mixture).items()}
        return kind

    def __hash__(self):
        values = (getattr(self, name) for name in options_of(self))
        return hash(tuple(frozenset(v.items()) if isinstance(v, Mapping) else v for v in values))

    def rows_per_batch(self) -> dict[str, int]:
        """Rows of each data set in one batch, of GRPO its prompts; a mixture is rounded by largest remainders."""
        if self.mixture is not None:
            return rows_of(self.mixture, self.batch_size)
        prompts = self.batch_size // self.num_generations
        count = prompts if self.objective == "grpo" else self.batch_size
        return dict.fromkeys(self.datasets[-1:], count)
