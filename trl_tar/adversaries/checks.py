"""What an [`Adversary`] refuses: one sentence that names the field, its value and the remedy. No torch here."""

import importlib.util
import re
from collections.abc import Callable
from typing import Any

from ..validation import check_types
from .prompt_template import PROMPT


Refuse = Callable[[str, str], None]  # what is wrong, and the remedy; raises
OBJECTIVES = ("sft", "dpo", "grpo")
# change of the weights without training → what its strength is, if it has one
EDITS = {
    "int8": None,
    "nf4": None,
    "prune": "share of each matrix",
    "noise": "standard deviation, as a share of the matrix's own",
    "interpolate": "share of the base",
    "strip_delta": "number of singular directions of each matrix's difference to the base",
    "abliterate": None,
}
OPTIMIZERS = ("adamw", "adamw_8bit", "schedule_free_adamw", "sgd", "adadelta", "adagrad")
LR_SCHEDULERS = ("constant", "constant_with_warmup", "cosine", "cosine_with_restarts")
RESTARTS = 4  # cycles of cosine_with_restarts; transformers' default of 1 never restarts


def check_adversary(a: Any) -> None:
    """Raises `ValueError`, one sentence and a remedy, for fields that contradict each other or have no meaning."""

    def refuse(what: str, remedy: str):
        raise ValueError(f"Adversary {a.name!r} has {what}. {remedy}")

    if not isinstance(a.name, str) or not a.name:
        raise ValueError(f"An adversary has name={a.name!r}. Give it a non-empty string.")
    check_types(f"Adversary {a.name!r}", a)
    for name, allowed in [("objective", OBJECTIVES), ("optimizer", OPTIMIZERS), ("lr_scheduler", LR_SCHEDULERS)]:
        if getattr(a, name) not in allowed:
            refuse(f"{name}={getattr(a, name)!r}", f"Use one of {', '.join(map(repr, allowed))}.")
    _check_peft(a, refuse)
    _check_data(a, refuse)
    _check_ranges(a, refuse)
    _check_optimizer(a, refuse)
    _check_grpo(a, refuse)
    _check_edit(a, refuse)
    if a.prompt_template is not None and a.prompt_template.count(PROMPT) != 1:
        refuse(f"prompt_template={a.prompt_template!r}", f"Write {PROMPT} once, where the question goes.")
    if a.after is not None:
        _check_after(a, refuse)


def check_installed(a: Any) -> None:
    """Raises `ValueError` for an attack that needs a package which is not there."""
    for name, value in (("quantization", a.quantization), ("optimizer", a.optimizer)):
        if value in ("nf4", "adamw_8bit") and importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(
                f"Adversary {a.name!r} has {name}={value!r}, which needs bitsandbytes. Install trl-tar[quantization]."
            )


def _check_data(a: Any, refuse: Refuse) -> None:
    if a.needs_data and (a.dataset is None) == (a.mixture is None):
        refuse(f"dataset={a.dataset!r} and mixture={a.mixture!r}", "Give exactly one of the two.")
    if a.mixture is not None:
        if not a.mixture or not all(0 < share < float("inf") for share in a.mixture.values()):
            refuse(f"mixture={dict(a.mixture)!r}", "Give every data set a finite share above 0.")
        if a.first_dataset is not None:
            refuse("both mixture and first_dataset", "Give one of the two.")
        if min(a.rows_per_batch().values()) < 1:
            refuse(
                f"mixture={dict(a.mixture)!r} with batch_size={a.batch_size}",
                "Use a larger batch so that every data set gets a row.",
            )


def _check_ranges(a: Any, refuse: Refuse) -> None:
    for name, low in [
        ("batch_size", 1),
        ("micro_batch_size", 1),
        ("num_steps", 0),
        ("lora_r", 1),
        ("lora_alpha", 1),
        ("num_virtual_tokens", 1),
        ("num_generations", 2),
        ("max_completion_length", 1),
    ]:
        if getattr(a, name) is not None and getattr(a, name) < low:
            refuse(f"{name}={getattr(a, name)}", f"Use at least {low}.")
    for name in ("learning_rate", "weight", "beta"):
        if not 0 < getattr(a, name) < float("inf"):
            refuse(f"{name}={getattr(a, name)}", "Use a finite number above 0.")
    for name in ("warmup_steps", "weight_decay", "max_grad_norm", "momentum", "lora_dropout"):
        if not 0 <= getattr(a, name) < float("inf"):
            refuse(f"{name}={getattr(a, name)}", "Use a finite number of at least 0.")
    if a.lora_dropout >= 1:
        refuse(f"lora_dropout={a.lora_dropout}", "Use a share below 1.")
    if a.switch_at != "beta" and not 0 <= a.switch_at <= 1:
        refuse(f"switch_at={a.switch_at}", "Use a share of the steps in [0, 1], or 'beta'.")


def _check_optimizer(a: Any, refuse: Refuse) -> None:
    if (a.momentum or a.nesterov) and a.optimizer != "sgd":
        refuse(f"momentum or nesterov with optimizer={a.optimizer!r}", "Use them with optimizer='sgd'.")
    if a.nesterov and not a.momentum:
        refuse("nesterov=True with momentum=0", "Set momentum, for example 0.9.")
    if a.warmup_steps and a.lr_scheduler == "constant" and a.optimizer != "schedule_free_adamw":
        refuse(
            f"warmup_steps={a.warmup_steps} with lr_scheduler='constant'",
            "Use lr_scheduler='constant_with_warmup'.",
        )
    if a.optimizer == "schedule_free_adamw" and a.lr_scheduler != "constant":
        refuse(
            f"lr_scheduler={a.lr_scheduler!r} with optimizer='schedule_free_adamw'",
            "Use lr_scheduler='constant': this optimizer applies warmup_steps itself, and they would count twice.",
        )


def _check_after(a: Any, refuse: Refuse) -> None:
    first = a.after
    if first.num_virtual_tokens is not None or first.quantization is not None or a.quantization is not None:
        refuse("after= with a soft prompt or quantised weights", "Only changed float weights can be gone on from.")
    if first.prompt_template is not None:
        refuse("after= with a prompt_template", "Give it to the last attack: only that one is evaluated.")
    shared = next((name for name in a.datasets if first.reads.get(name, a.objective) != a.objective), None)
    if shared is not None:
        refuse(
            f"dataset={shared!r}, which after= reads with objective={first.reads[shared]!r}",
            "Give the data set a second name.",
        )


def _check_peft(a: Any, refuse: Refuse) -> None:
    if a.quantization not in (None, "nf4"):
        refuse(f"quantization={a.quantization!r}", "Use 'nf4' or None.")
    if a.quantization is not None and a.lora_r is None:
        refuse("quantization='nf4' without lora_r", "Set lora_r: 4-bit weights take no gradient.")
    if not a.lora_target_modules:
        refuse(f"lora_target_modules={a.lora_target_modules!r}", "Give 'all-linear' or names of modules.")
    if isinstance(a.lora_target_modules, str):
        try:
            re.compile(a.lora_target_modules)
        except re.error as error:
            refuse(f"lora_target_modules={a.lora_target_modules!r}", f"It is no regular expression ({error}): mend it.")
    if a.use_dora and a.lora_r is None:
        refuse("use_dora=True without lora_r", "Set lora_r.")
    if a.num_virtual_tokens is not None and a.lora_r is not None:
        refuse("both num_virtual_tokens and lora_r", "Give one of the two.")


def _check_grpo(a: Any, refuse: Refuse) -> None:
    if (a.objective == "grpo") != (a.reward is not None):
        refuse(
            f"objective={a.objective!r} and reward={a.reward!r}",
            "Name a reward function with objective='grpo', and only there.",
        )
    if a.objective == "grpo":
        if a.dataset is None or a.first_dataset is not None:
            refuse("objective='grpo' with a mixture or first_dataset", "Give one dataset of prompts.")
        if a.batch_size % a.num_generations:
            refuse(
                f"batch_size={a.batch_size} with num_generations={a.num_generations}",
                "Use a multiple: the batch counts answers.",
            )


def _check_edit(a: Any, refuse: Refuse) -> None:
    if a.edit is None:
        for name in ("edit_strength", "contrast_dataset"):
            if getattr(a, name) is not None:
                refuse(f"{name}={getattr(a, name)!r} without edit", "Name the edit.")
        return
    if a.quantization is not None:
        refuse(
            f"edit={a.edit!r} with quantization={a.quantization!r}", "Use one of the two: an edit reads plain weights."
        )
    if a.edit not in EDITS:
        refuse(f"edit={a.edit!r}", f"Use one of {', '.join(map(repr, EDITS))}.")
    meaning = EDITS[a.edit]
    if (meaning is None) != (a.edit_strength is None):
        what = f"edit={a.edit!r} with edit_strength={a.edit_strength!r}"
        refuse(what, "Leave it out." if meaning is None else f"Give the {meaning}.")
    if a.edit in ("prune", "interpolate") and not 0 < a.edit_strength <= 1:
        refuse(f"edit_strength={a.edit_strength}", "Use a share in (0, 1].")
    if a.edit == "noise" and not 0 < a.edit_strength < float("inf"):
        refuse(f"edit_strength={a.edit_strength}", "Use a finite number above 0.")
    if a.edit == "strip_delta" and not (a.edit_strength >= 1 and a.edit_strength == int(a.edit_strength)):
        refuse(f"edit_strength={a.edit_strength}", "Use a whole number of directions.")
    if a.edit == "abliterate" and (a.dataset is None or a.contrast_dataset is None):
        refuse("edit='abliterate' without dataset or contrast_dataset", "Name both.")
    if a.edit != "abliterate" and a.contrast_dataset is not None:
        refuse(f"contrast_dataset with edit={a.edit!r}", "Use it with edit='abliterate'.")
