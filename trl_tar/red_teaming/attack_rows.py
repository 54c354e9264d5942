"""The rows of an attack, tokenised as for the simulated one and in the same order."""

import tempfile
from collections.abc import Mapping, Sequence

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import SFTConfig

from ..adversaries.adversary import Adversary
from ..adversaries.data_order import draw_batches
from ..data.messages import with_text
from ..data.tokenisation import drop_fused_head, length_of, tokenised_pairs, tokenised_rows
from ..models.tokenizers import check_context, context_of
from .trl_attackers import QUIET, SFTAttack, rng_as_found


TOKENISED_COLUMNS = {  # GRPO reads its rows as they are
    "sft": ["input_ids", "labels"],
    "dpo": ["prompt_ids", "chosen_ids", "rejected_ids"],
}


def tokenised_datasets(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    adversary: Adversary,
    datasets: Mapping[str, Dataset],
    max_length: int,
) -> dict[str, Dataset]:
    """Prepares all data sets that the adversary reads as the simulated attack does, and cuts rows to `max_length` tokens.

    Returns the data sets by name. Raises `ValueError` for a pair whose prompt alone is as long, for a row that is longer than
    the model's context, and for a data set of which most rows have nothing left to learn."""
    tokenised = {
        name: _tokenised(model, tokenizer, name, datasets[name], objective, max_length)
        for name, objective in adversary.reads.items()
    }
    for name, objective in adversary.reads.items():
        longest = 0 if objective == "grpo" else _longest(tokenised[name])
        check_context(f"datasets[{name!r}]", longest, max_length, context_of(model.config))
    return tokenised


def _tokenised(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    dataset: Dataset,
    objective: str,
    max_length: int,
) -> Dataset:
    argument = f"datasets[{name!r}]"
    if objective == "grpo":
        return with_text(argument, dataset, tokenizer)
    columns = TOKENISED_COLUMNS[objective]
    if _is_tokenised(dataset, columns, max_length):
        return dataset.select_columns(columns)
    with rng_as_found(), tempfile.TemporaryDirectory() as folder:
        nothing = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        args = SFTConfig(folder, max_length=max_length, **QUIET)
        preparer = SFTAttack(model, args, train_dataset=nothing, processing_class=tokenizer)
        drop_fused_head(model)
        if objective == "sft":
            rows = tokenised_rows(preparer, dataset, argument)
            _check_left(argument, len(rows), len(dataset), max_length)
        else:
            rows = [_cut(name, pair, max_length) for pair in tokenised_pairs(preparer, dataset, argument)]
    return Dataset.from_list(rows)


def _check_left(argument: str, left: int, given: int, max_length: int) -> None:
    """Raises `ValueError` where fewer than half of the rows have a token to learn: an attack with the others is not the one that
    was asked for, and weaker. As many must be left as a metric must have answers."""
    if 2 * left < given:
        raise ValueError(
            f"`{argument}` has {given} rows, and {given - left} of them no token to learn within max_length={max_length}, as after "
            "a prompt that is as long. Raise max_length, or leave those rows out."
        )


def _is_tokenised(dataset: Dataset, columns: Sequence[str], max_length: int) -> bool:
    """Tells whether nothing is left to do: the columns are there, and no row is longer than `max_length` tokens."""
    if not set(columns) <= set(dataset.column_names):
        return False
    return _longest(dataset.select_columns(columns)) <= max_length


def full_rows(dataset: Dataset, max_length: int) -> int:
    """Returns how many tokenised rows are as long as a row may be, so that their ends may be cut off."""
    return sum(length_of(row) >= max_length for row in dataset)


def _longest(dataset: Dataset) -> int:
    """Returns the tokens of the longest row."""
    return max(map(length_of, dataset), default=0)


def _cut(name: str, pair: dict[str, list[int]], max_length: int) -> dict[str, list[int]]:
    """Cuts the answers of a pair, as TRL's collator cuts them in the simulated attack."""
    prompt = pair["prompt_ids"]
    if len(prompt) >= max_length:
        raise ValueError(
            f"`datasets[{name!r}]` has a prompt of {len(prompt)} tokens, and max_length={max_length} leaves none of "
            "its answers. Raise max_length or remove the row."
        )
    answers = {column: pair[column][: max_length - len(prompt)] for column in ("chosen_ids", "rejected_ids")}
    return {"prompt_ids": prompt, **answers}


def attack_rows(adversary: Adversary, tokenised: Mapping[str, Dataset], seed: int) -> Dataset:
    """Returns the rows of all batches, one after the other, in the order of [`~trl_tar.adversaries.data_order.draw_batches`].

    A GRPO attack gets all prompts, since TRL's trainer draws them itself."""
    if adversary.objective == "grpo":
        assert adversary.dataset is not None  # checked by Adversary
        return tokenised[adversary.dataset]
    tokenised = {name: tokenised[name] for name in adversary.datasets}
    sizes = {name: len(dataset) for name, dataset in tokenised.items()}
    starts, start = {}, 0
    for name, size in sizes.items():
        starts[name] = start
        start += size
    order = [starts[name] + i for batch in draw_batches(adversary, sizes, seed) for name, i in batch]
    return concatenate_datasets(list(tokenised.values())).select(order)
