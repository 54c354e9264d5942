"""Checks that data sets and adversaries fit a trainer."""

from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from trl import SFTTrainer

from ..adversaries.adversary import Adversary
from ..adversaries.checks import check_installed, check_reads, checked_list
from ..adversaries.options import options_of
from ..data.dataset_types import check_dataset
from ..models.architecture import outputs_of
from ..validation import shortened
from .tar_config import TARConfig


def check_train_and_eval_datasets(
    train: Dataset, evaluation: Dataset | Mapping[str, Dataset] | None, text_field: str, formatted: bool
) -> None:
    """Raises the `ValueError` of [`check_dataset`]. With a `formatting_func`, columns may have any name."""

    def check(argument: str, dataset: Dataset) -> None:
        if not formatted or not isinstance(dataset, Dataset) or len(dataset) == 0:
            check_dataset(argument, dataset, False, text_field)

    check("train_dataset", train)
    each_evaluation(evaluation, check)


def each_evaluation(evaluation: Dataset | Mapping[str, Dataset] | None, function: Callable[[str, Dataset], Any]) -> Any:
    """What a function of argument and data set returns for `eval_dataset`, or in a dictionary for each of several."""
    if isinstance(evaluation, Mapping):
        return {name: function(f"eval_dataset[{name!r}]", dataset) for name, dataset in evaluation.items()}
    return None if evaluation is None else function("eval_dataset", evaluation)


def check_retain_rows(trainer: SFTTrainer) -> None:
    """Raises `ValueError` for a D_retain that fills no batch once tokenised: training would end where it began."""
    args, rows = trainer.args, len(trainer.train_dataset)
    wanted = args.per_device_train_batch_size * trainer.accelerator.num_processes if args.dataloader_drop_last else 1
    if rows < wanted:
        raise ValueError(
            f"`train_dataset` has {rows} rows with a token to predict, and a batch takes {wanted}. Give more rows, raise "
            "max_length or lower per_device_train_batch_size."
        )


def check_reference(reference: PreTrainedModel, model: PreTrainedModel | PeftModel) -> None:
    """Raises `ValueError` for a `ref_model` whose logits and hidden states are not those of the same tokens, layers and width."""
    if not isinstance(reference, PreTrainedModel | PeftModel):
        raise ValueError(f"`ref_model` is {type(reference).__name__!r}. Give a PreTrainedModel, or None for θ_G0.")

    expected, found = outputs_of(model, hidden_states=True), outputs_of(reference, hidden_states=True)
    for what in ("vocabulary", "hidden_states"):
        one, other = getattr(found, what), getattr(expected, what)
        if one != other:
            raise ValueError(
                f"`ref_model` returns {shortened(one)} as {what} and the model {shortened(other)}, so that they cannot be compared. "
                "Give a reference of the same architecture and tokenizer."
            )


RED_TEAM_ONLY = tuple(name for name, option in options_of(Adversary).items() if not option.in_training)


def checked_adversaries(
    adversaries: Iterable[Adversary], datasets: Mapping[str, Dataset], args: TARConfig
) -> list[Adversary]:
    """Raises `ValueError` for adversaries that cannot be simulated, or whose data sets are missing."""
    adversaries = checked_list(adversaries, "Give at least one Adversary (num_steps=0 for none simulated).")
    if not isinstance(datasets, Mapping):
        raise ValueError(
            f"`adversary_datasets` is {type(datasets).__name__!r}. Give a dict of name → `datasets.Dataset`."
        )
    for adversary in adversaries:
        check_installed(adversary)
        for name in RED_TEAM_ONLY:
            if getattr(adversary, name):
                raise ValueError(
                    f"Adversary {adversary.name!r} has {name}={getattr(adversary, name)!r}, which cannot be simulated in "
                    "training. Drop it, or pass the adversary to red_team only."
                )
        for name, option in options_of(adversary).items():
            choice = option.chosen(getattr(adversary, name))
            if choice is not None and not choice.in_training:
                simulated = " or ".join(repr(value) for value, other in option.choices.items() if other.in_training)
                raise ValueError(
                    f"Adversary {adversary.name!r} has {name}={getattr(adversary, name)!r}, which cannot be simulated in training. "
                    f"Use {simulated}, or pass the adversary to red_team only."
                )
        if 0 < adversary.num_steps < args.tamper_resistance_interval:
            raise ValueError(
                f"Adversary {adversary.name!r} has num_steps={adversary.num_steps}, below tamper_resistance_interval="
                f"{args.tamper_resistance_interval}: it would never be judged. Raise the one or lower the other."
            )
        check_reads(adversary, "adversary_datasets", datasets)
        for name in adversary.datasets:
            check_dataset(
                f"adversary_datasets[{name!r}]", datasets[name], adversary.objective == "dpo", args.dataset_text_field
            )
            if any(name in other.datasets and other.objective != adversary.objective for other in adversaries):
                raise ValueError(
                    f"`adversary_datasets` has {name!r}, which adversaries with objective='sft' and 'dpo' both read. Give "
                    "it to one of them under a second name."
                )
    return adversaries


def check_tamper_resistance_rows(rows: Sized, args: TARConfig) -> None:
    """Raises `ValueError` for a D_TR that fills no batch. Tokenisation drops rows without a label, so `rows` come after it."""
    if len(rows) < args.tamper_resistance_batch_size:
        raise ValueError(
            f"`tamper_resistance_dataset` has {len(rows)} rows, fewer than tamper_resistance_batch_size="
            f"{args.tamper_resistance_batch_size}. Lower the batch size or give more rows."
        )


def check_forget_rows(rows: int, batch: int, argument: str = "forget_dataset") -> None:
    """Raises `ValueError` for a D_forget with fewer rows than the `batch` that all devices and micro-batches of a step take."""
    if rows < batch:
        raise ValueError(
            f"`{argument}` has {rows} rows, fewer than the {batch} that all devices take at once. Lower "
            "forget_batch_size or give more rows."
        )
