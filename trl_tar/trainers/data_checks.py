"""Checks that data sets and adversaries fit a trainer."""

from collections.abc import Iterable, Mapping, Sized

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from trl import SFTTrainer

from ..adversaries.adversary import Adversary
from ..adversaries.checks import check_installed, check_reads, checked_list
from ..adversaries.choices import OBJECTIVES
from ..adversaries.options import options_of
from ..data.dataset_types import check_dataset
from .tar_config import TARConfig


def check_train_and_eval_datasets(
    train: Dataset, evaluation: Dataset | Mapping[str, Dataset] | None, text_field: str, formatted: bool
) -> None:
    """Raises the `ValueError` of [`check_dataset`]. With a `formatting_func`, columns may have any name."""
    parts = evaluation if isinstance(evaluation, Mapping) else {} if evaluation is None else {"": evaluation}
    names = {"train_dataset": train, **{f"eval_dataset[{n!r}]" if n else "eval_dataset": d for n, d in parts.items()}}
    for name, dataset in names.items():
        if not formatted or not isinstance(dataset, Dataset) or len(dataset) == 0:
            check_dataset(name, dataset, False, text_field)


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
    """Raises `ValueError` for a `ref_model` whose hidden states are not those of the same tokens, layers and width."""
    if not isinstance(reference, PreTrainedModel | PeftModel):
        raise ValueError(f"`ref_model` is {type(reference).__name__!r}. Give a PreTrainedModel, or None for θ_G0.")

    def shape(model: PreTrainedModel | PeftModel) -> dict[str, int]:
        config = model.config.get_text_config()
        return {
            "hidden_size": config.hidden_size,
            "num_hidden_layers": config.num_hidden_layers,
            "embedded tokens": model.get_input_embeddings().num_embeddings,
        }

    expected = shape(model)
    for name, value in shape(reference).items():
        if value != expected[name]:
            raise ValueError(
                f"`ref_model` has {value} {name} and the model {expected[name]}, so their hidden states cannot be "
                "compared. Give a reference of the same architecture and tokenizer."
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
        if not OBJECTIVES[adversary.objective].in_training:
            simulated = " or ".join(repr(name) for name, objective in OBJECTIVES.items() if objective.in_training)
            raise ValueError(
                f"Adversary {adversary.name!r} has objective={adversary.objective!r}, which cannot be simulated in training. "
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


def check_forget_rows(rows: int, batch: int) -> None:
    """Raises `ValueError` for a D_forget with fewer rows than the `batch` that all devices and micro-batches of a step take."""
    if rows < batch:
        raise ValueError(
            f"`forget_dataset` has {rows} rows, fewer than the {batch} that all devices take at once. Lower "
            "forget_batch_size or give more rows."
        )
