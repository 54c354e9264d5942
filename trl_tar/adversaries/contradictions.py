"""Fields of one adversary that have no meaning, or contradict each other.

The argument is an [`~trl_tar.adversaries.adversary.Adversary`], which calls this of itself."""

from collections.abc import Iterator
from typing import Any

from ..validation import check_types
from .choices import EDITS
from .options import Concept, check_options, options_of


def check_adversary(a: Any) -> None:
    """Raises `ValueError`, one sentence and a remedy, for fields of an adversary that have no meaning or contradict each other."""
    if not isinstance(a.name, str) or not a.name:
        raise ValueError(f"An adversary has name={a.name!r}. Give it a non-empty string.")
    owner = f"Adversary {a.name!r}"
    check_types(owner, a)
    check_options(owner, a)
    for contradictions in (_in_data, _in_training, _in_edit, _in_custom, _in_sequence):
        fault = next(contradictions(a), None)
        if fault is not None:
            raise ValueError(f"{owner} has {fault}")


def _in_data(a: Any) -> Iterator[str]:
    if a.needs_data and (a.dataset is None) == (a.mixture is None):
        yield f"dataset={a.dataset!r} and mixture={a.mixture!r}. Give exactly one of the two."
    if a.mixture is not None:
        if a.first_dataset is not None:
            yield "both mixture and first_dataset. Give one of the two."
        if min(a.rows_per_batch().values()) < 1:
            yield (
                f"mixture={dict(a.mixture)!r} with batch_size={a.batch_size}. Use a larger batch so that every data set gets "
                "a row."
            )


def _in_training(a: Any) -> Iterator[str]:
    if a.num_virtual_tokens is not None and a.lora_r is not None:
        yield "both num_virtual_tokens and lora_r. Give one of the two."
    if a.factors is not None and (a.lora_r is not None or a.num_virtual_tokens is not None):
        yield "factors with lora_r or num_virtual_tokens. Give one of them: an adapter leaves the layers untrained."
    if a.pure_bf16 and a.quantization is not None:
        yield f"pure_bf16 with quantization={a.quantization!r}. Give one of the two: they hold the weights in another way."
    if a.factors is not None and a.pure_bf16:
        yield "factors with pure_bf16. Give one of the two: factors are found in float32."
    if a.num_steps == 0 and (a.factors is not None or a.pure_bf16):
        yield "num_steps=0 with factors or pure_bf16, which are about training. Give steps, or leave them out."
    if a.nesterov and not a.momentum:
        yield "nesterov=True with momentum=0. Set momentum, for example 0.9."
    if (a.objective == "grpo") != (a.reward is not None):
        yield (
            f"objective={a.objective!r} and reward={a.reward!r}. Name a reward function with objective='grpo', and only "
            "there."
        )
    if a.objective == "grpo":
        if a.dataset is None or a.first_dataset is not None:
            yield "objective='grpo' with a mixture or first_dataset. Give one dataset of prompts."
        if a.batch_size % a.num_generations:
            yield (
                f"batch_size={a.batch_size} with num_generations={a.num_generations}. Use a multiple: the batch counts "
                "answers."
            )


def _in_edit(a: Any) -> Iterator[str]:
    if a.edit is None:
        return
    edit = EDITS[a.edit]
    if a.quantization is not None:
        yield (
            f"edit={a.edit!r} with quantization={a.quantization!r}. Use one of the two: an edit reads plain weights."
        )
    if (edit.strength is None) != (a.edit_strength is None):
        remedy = "Leave it out." if edit.strength is None else f"Give the {edit.strength}."
        yield f"edit={a.edit!r} with edit_strength={a.edit_strength!r}. {remedy}"
    if edit.allowed is not None and (other_strength := edit.allowed(a.edit_strength)) is not None:
        yield f"edit_strength={a.edit_strength}. {other_strength}"
    if edit.needs_data and (a.dataset is None or a.contrast_dataset is None):
        yield f"edit={a.edit!r} without dataset or contrast_dataset. Name both."
    if not edit.needs_data and a.contrast_dataset is not None:
        readers = " or ".join(f"edit={name!r}" for name, other in EDITS.items() if other.needs_data)
        yield f"contrast_dataset with edit={a.edit!r}. Use it with {readers}."


# an attack from outside the package trains in its own way: settings of TRL's trainers would do nothing, and not be missed
TRAINING = {Concept.OBJECTIVE, Concept.STEP, Concept.LORA, Concept.ADAPTER}
TRAINING_FIELDS = ("optimizer", "lr_scheduler", "warmup_steps", "micro_batch_size", "first_dataset")


def _in_custom(a: Any) -> Iterator[str]:
    if a.custom is None:
        return
    if a.num_steps == 0:
        yield f"custom={a.custom!r} with num_steps=0. Give the steps that it may take at most."
    for name, spec in options_of(a).items():
        value = getattr(a, name)
        if (spec.concept in TRAINING or name in TRAINING_FIELDS) and value != spec.default:
            yield f"custom={a.custom!r}, and {name}={value!r} would do nothing. Give it in options, if the attack takes it."


def _in_sequence(a: Any) -> Iterator[str]:
    first = a.after
    if first is None:
        return
    if first.num_virtual_tokens is not None or first.quantization is not None or a.quantization is not None:
        yield "after= with a soft prompt or quantised weights. Only changed float weights can be gone on from."
    if first.prompt_template is not None:
        yield "after= with a prompt_template. Give it to the last attack: only that one is evaluated."
    shared = next((name for name in a.datasets if first.reads.get(name, a.reads[name]) != a.reads[name]), None)
    if shared is not None:
        yield (
            f"dataset={shared!r}, which after= reads with objective={first.reads[shared]!r}. Give the data set a second "
            "name."
        )
