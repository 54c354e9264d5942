"""Rows as tokens."""

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel
from trl import DPOTrainer, SFTTrainer

from ..losses import IGNORED


def tokenised_rows(trainer: SFTTrainer, dataset: Dataset, name: str) -> list[dict]:
    """`input_ids` and `labels` of a language-modeling or prompt-completion data set, in memory, as TRL prepares them.

    Whether the prompt counts is decided by the type of this data set, where TRL would go by that of `train_dataset`."""
    completion_only, chosen = trainer.completion_only_loss, trainer.args.completion_only_loss
    trainer.completion_only_loss = "prompt" in dataset.column_names if chosen is None else chosen
    try:
        prepared = trainer._prepare_dataset(dataset, trainer.processing_class, trainer.args, False, None, name)
    finally:
        trainer.completion_only_loss = completion_only
    rows = prepared.select_columns(["input_ids", "labels"]).to_list()
    return [row for row in rows if any(label != IGNORED for label in row["labels"][1:])]  # the first is not predicted


def tokenised_pairs(trainer: SFTTrainer, dataset: Dataset, name: str) -> list[dict]:
    """`prompt_ids`, `chosen_ids` and `rejected_ids` of a preference data set, in memory, as TRL prepares them."""
    if "prompt_ids" not in dataset.column_names:
        dataset = DPOTrainer._prepare_dataset(trainer, dataset, trainer.processing_class, trainer.args, name)
    return dataset.select_columns(["prompt_ids", "chosen_ids", "rejected_ids"]).to_list()


def drop_fused_head(model: PreTrainedModel | PeftModel) -> None:
    """Removes TRL's patched forward, which has neither hidden states nor the precision of the weights."""
    unpatched = model.get_base_model() if isinstance(model, PeftModel) else model
    unpatched.__dict__.pop("forward")
