"""Tokenisation of data sets into rows that are held in memory, as TRL prepares them."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from trl import DPOTrainer, SFTTrainer

from ..losses import IGNORED
from .messages import with_text


def tokenised_rows(trainer: SFTTrainer, dataset: Dataset, argument: str) -> list[dict]:
    """Rows with `input_ids` and `labels` of a language-modeling or prompt-completion data set, and with its `task`, if any.

    Unless the configuration decides it, the prompt counts in the loss by the type of this data set; TRL would go by the type
    of `train_dataset`. Rows without a label to predict are left out. `argument` names the data set in the `ValueError` of
    [`~trl_tar.data.messages.with_text`]."""
    dataset = with_text(argument, dataset, trainer.processing_class)
    completion_only, configured = trainer.completion_only_loss, trainer.args.completion_only_loss
    trainer.completion_only_loss = "prompt" in dataset.column_names if configured is None else configured
    try:
        prepared = trainer._prepare_dataset(dataset, trainer.processing_class, trainer.args, False, None, argument)
    finally:
        trainer.completion_only_loss = completion_only
    columns = [name for name in ("input_ids", "labels", "task") if name in prepared.column_names]
    rows = prepared.select_columns(columns).to_list()
    return [
        row for row in rows if any(label != IGNORED for label in row["labels"][1:])
    ]  # the first token is never predicted


def tokenised_pairs(trainer: SFTTrainer, dataset: Dataset, argument: str) -> list[dict]:
    """Rows with `prompt_ids`, `chosen_ids` and `rejected_ids` of a preference data set; `argument` as in [`tokenised_rows`]."""
    dataset = with_text(argument, dataset, trainer.processing_class)
    if "prompt_ids" not in dataset.column_names:
        dataset = DPOTrainer._prepare_dataset(trainer, dataset, trainer.processing_class, trainer.args, argument)
    return dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]).to_list()


TOKENISED = {"sft": tokenised_rows, "dpo": tokenised_pairs}  # by the objective that reads the rows


def length_of(row: Mapping[str, Any]) -> int:
    """Number of tokens of a tokenised row; of a pair, those of its prompt and longer answer."""
    if "input_ids" in row:
        return len(row["input_ids"])
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def drop_fused_head(model: PreTrainedModel | PeftModel) -> None:
    """Removes TRL's patched forward method, which returns no hidden states and does not keep the precision of the weights."""
    unpatched = model.get_base_model() if isinstance(model, PeftModel) else model
    unpatched.__dict__.pop("forward")
