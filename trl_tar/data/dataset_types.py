"""The types of data sets that trainers and attacks read, by their columns, and the check that a data set is of one type."""

from datasets import Dataset, Json, Value
from transformers import PreTrainedTokenizerBase

from .chat_templates import chat_ids
from .messages import check_common_prompts, check_messages, with_text


# TRL's types: a data set of one of them has at least these columns, or the text column of plain text
LANGUAGE_MODELING_COLUMNS = ({"messages"}, {"conversations"}, {"prompt", "completion"}, {"input_ids"})
CHAT = {"messages", "conversations"}  # columns of messages
ANSWERED = {"prompt", "completion", "chosen", "rejected"}  # columns of text or of messages
PREFERENCE_COLUMNS = ({"chosen", "rejected"}, {"prompt_ids", "chosen_ids", "rejected_ids"})


def check_dataset(argument: str, dataset: Dataset, preference: bool, text_field: str = "text") -> None:
    """Checks that a data set has rows, and is of one type that the objective can read.

    Args:
        argument (`str`):
            Name of the argument in the message.
        dataset ([`~datasets.Dataset`]):
            Data set in one of TRL's types, raw or tokenised.
        preference (`bool`):
            Pairs are needed (DPO).
        text_field (`str`, *optional*, defaults to `"text"`):
            Column of a plain-text data set.

    Raises:
        `ValueError`: for what is no data set, is empty, has other columns, or has odd rows.
    """
    if not isinstance(dataset, Dataset):
        raise ValueError(f"`{argument}` is {type(dataset).__name__!r}. Give a `datasets.Dataset`.")
    if len(dataset) == 0:
        raise ValueError(f"`{argument}` has 0 rows. Give a data set with at least one batch.")
    allowed = PREFERENCE_COLUMNS if preference else ({text_field}, *LANGUAGE_MODELING_COLUMNS)
    columns = set(dataset.column_names)
    if not any(type_columns <= columns for type_columns in allowed):
        wanted = " or ".join("+".join(sorted(names)) for names in allowed)
        raise ValueError(f"`{argument}` has columns {sorted(columns)}. Rename them: TRL reads {wanted}.")
    beside = sorted(columns & {text_field, *CHAT})
    if not preference and "prompt" in columns and beside and "input_ids" not in columns:
        raise ValueError(
            f"`{argument}` has 'prompt' beside {beside}, which TRL would mix up. Leave the columns of one type: prompt and "
            "completion, or one of the others."
        )
    read = _read(columns, preference, text_field)
    _check_values(argument, dataset, read)
    raw = sorted(read & {text_field, *ANSWERED, *CHAT})
    if raw:
        _check_raw_columns(argument, dataset, raw, preference)


def _check_values(argument: str, dataset: Dataset, read: set[str]) -> None:
    for name in sorted(read):
        empty = dataset.select_columns(name).with_format("arrow")[:].column(0).null_count
        if empty:
            raise ValueError(f"`{argument}` has {empty} rows without a value in its column {name!r}. Leave them out.")


def _check_raw_columns(argument: str, dataset: Dataset, raw: list[str], preference: bool) -> None:
    """Raises `ValueError` for columns that are to be tokenised, and hold neither text alone nor messages alone."""
    for name in raw:
        kind = dataset.features[name]
        if isinstance(kind, Value) and (name in CHAT or "string" not in kind.dtype):
            wanted = "messages" if name in CHAT else "text"
            raise ValueError(
                f"`{argument}` has rows of type {kind.dtype!r} in its column {name!r}. Give {wanted} in every row."
            )
    # TRL takes the kind of any column that it knows for that of all, whichever it reads
    known = sorted({*raw, *({*dataset.column_names} & {*ANSWERED, "messages"})})
    kinds = set().union(*(_kinds(dataset, name) for name in known))
    if len(kinds) > 1:
        raise ValueError(
            f"`{argument}` has plain text and chat messages in its columns {known}. Give one of the two in all rows and "
            "columns."
        )
    if "messages" in kinds:
        for name in raw:
            check_messages(argument, name, dataset)
        if preference and "prompt" not in dataset.column_names:
            check_common_prompts(argument, dataset)


def _read(columns: set[str], preference: bool, text_field: str) -> set[str]:
    """The columns that TRL reads, where a data set has those of several types."""
    if preference:
        pairs, tokenised = {"prompt", "chosen", "rejected"}, {"prompt_ids", "chosen_ids", "rejected_ids"}
        return tokenised if tokenised <= columns else pairs & columns
    order = ({"input_ids"}, {"prompt", "completion"}, {"conversations"}, {"messages"}, {text_field})
    return next(wanted for wanted in order if wanted <= columns)


def _kinds(dataset: Dataset, column: str) -> set[str]:
    """The kinds of values in a column: `"text"`, `"messages"`, or both, where `datasets` read it from JSON as `Json`."""
    if isinstance(dataset.features[column], Json):
        return {"text" if isinstance(value, str) else "messages" for value in dataset[column]}
    return {"text" if isinstance(dataset.features[column], Value) else "messages"}


def is_chat(dataset: Dataset) -> bool:
    """Returns whether the rows are messages, which TRL puts into the chat template."""
    if CHAT & set(dataset.column_names):
        return "input_ids" not in dataset.column_names
    return any("messages" in _kinds(dataset, name) for name in sorted(ANSWERED & set(dataset.column_names)))


def check_prompts(
    argument: str, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, wanted: int = 1
) -> None:
    """Checks that the tokenizer can write the messages of a data set, and that prompts leave room for an answer.

    Args:
        argument (`str`):
            Name of the argument in the message.
        dataset ([`~datasets.Dataset`]):
            Data set that passes [`check_dataset`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of the model.
        max_length (`int`):
            Tokens of a row. A longer prompt is no error, as TRL leaves such rows out.
        wanted (`int`, *optional*, defaults to `1`):
            Rows that are needed, such as those that are taken at once: so many prompts must be shorter.

    Raises:
        `ValueError`: for messages without a chat template, or that it refuses, and for too few prompts that leave room.
    """
    dataset = with_text(argument, dataset, tokenizer)
    if "prompt" not in dataset.column_names:
        return
    fitting = 0
    for prompt in dataset["prompt"]:
        ids = tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else chat_ids(tokenizer, prompt, opened=True)
        fitting += len(ids) < max_length
        if fitting == wanted:
            return
    raise ValueError(
        f"`{argument}` has {len(dataset)} rows, and {fitting} of their prompts leave room for an answer within max_length="
        f"{max_length}, where {wanted} rows are needed. Raise max_length, or shorten the prompts."
    )
