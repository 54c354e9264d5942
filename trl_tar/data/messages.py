"""Checks of chat messages: rows at which TRL stops late, or on which it trains wrongly, are refused by row and column."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from datasets import Dataset, Value
from transformers import PreTrainedTokenizerBase
from trl import extract_prompt

from ..validation import shortened
from .chat_templates import chat_text


# column → keys of a message's author and text; in other columns these are OTHER_KEYS
KEYS = {"conversations": ("from", "value")}
OTHER_KEYS = ("role", "content")
CHAT_COLUMNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")  # which may hold messages
SHARE_GPT = ("human", "gpt")  # authors in ShareGPT's format, which TRL passes to the chat template as they are


def check_messages(argument: str, column: str, dataset: Dataset) -> None:
    """Raises `ValueError` for the first cell that is no list of messages with author and text.

    The text may be a list of text blocks, and may be missing in a message that calls tools.

    Args:
        argument (`str`):
            Name of the data set in the message.
        column (`str`):
            Column of messages.
        dataset ([`~datasets.Dataset`]):
            Data set of one of TRL's conversational types.
    """
    author, text = KEYS.get(column, OTHER_KEYS)
    cells = (cell for batch in dataset.select_columns(column).iter(1000) for cell in batch[column])
    for row, messages in enumerate(cells):
        place = f"in the column {column!r} of row {row} (the first is row 0)"
        if not isinstance(messages, list) or not messages:
            raise ValueError(f"`{argument}` has {shortened(messages)} {place}. Give at least one message.")
        for message in messages:
            if not isinstance(message, Mapping) or not _complete(message, author, text):
                raise ValueError(
                    f"`{argument}` has {shortened(message)} {place}. Give messages with text as {author!r} and {text!r}, "
                    "which may be a list of blocks of type 'text' alone."
                )
            if message[author] in SHARE_GPT:
                raise ValueError(
                    f"`{argument}` has {author}={message[author]!r} {place}. Use 'user' and 'assistant', which chat templates "
                    "know; in a YAML file, format: conversations does."
                )


def _complete(message: Mapping[str, Any], author: str, text: str) -> bool:
    content = message.get(text)
    if isinstance(content, list):
        return isinstance(message.get(author), str) and bool(content) and all(map(_is_text_block, content))
    return isinstance(message.get(author), str) and (isinstance(content, str) or bool(message.get("tool_calls")))


def _is_text_block(block: Any) -> bool:
    return isinstance(block, Mapping) and block.get("type") == "text" and isinstance(block.get("text"), str)


def joined_text(content: Any) -> Any:
    """Returns the text blocks of a message as one text, and any other content as it is."""
    return "".join(block["text"] for block in content) if isinstance(content, list) else content


def with_text(argument: str, dataset: Dataset, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    """Prepares the messages of a data set for a chat template: blocks of text become text, which every template writes.

    Args:
        argument (`str`):
            Name of the data set in messages of errors.
        dataset ([`~datasets.Dataset`]):
            Data set of any of TRL's types, which passes [`check_messages`].
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer whose template writes the messages.

    Returns:
        [`~datasets.Dataset`]: the same one where nothing is to be done.

    Raises:
        `ValueError`: for chats without a chat template, and for the first row that the template refuses.
    """
    columns = [name for name in CHAT_COLUMNS if name in dataset.column_names and _holds_messages(dataset, name)]
    if not columns or {"input_ids", "prompt_ids"} & {*dataset.column_names}:  # tokenised rows are not written again
        return dataset
    if tokenizer.chat_template is None:
        raise ValueError(
            f"`{argument}` holds chat messages, and the tokenizer has no chat template. Set tokenizer.chat_template, or "
            "use an instruction-tuned model."
        )

    def joined(row: dict[str, Any]) -> dict[str, Any]:
        return {name: [_with_joined_text(name, message) for message in row[name]] for name in columns}

    if any(_has_blocks(dataset, name) for name in columns):
        dataset = dataset.map(joined)
    _check_template(argument, dataset, columns, tokenizer)
    return dataset


def _holds_messages(dataset: Dataset, column: str) -> bool:
    kind = dataset.features[column]
    return not isinstance(kind, Value) and not isinstance(dataset[0][column], str)


def _has_blocks(dataset: Dataset, column: str) -> bool:
    text = KEYS.get(column, OTHER_KEYS)[1]
    message = getattr(dataset.features[column], "feature", None)
    if isinstance(message, Mapping) and isinstance(message.get(text), Value):
        return False
    cells = (cell for batch in dataset.select_columns(column).iter(1000) for cell in batch[column])
    return any(isinstance(message.get(text), list) for cell in cells for message in cell)


def _with_joined_text(column: str, message: dict[str, Any]) -> dict[str, Any]:
    text = KEYS.get(column, OTHER_KEYS)[1]
    return {**message, text: joined_text(message.get(text))}


def _check_template(argument: str, dataset: Dataset, columns: list[str], tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `ValueError` for the first row that the chat template refuses, such as one with roles that it does not know."""
    for number, row in enumerate(dataset):
        tools = row.get("tools") or None
        options = {
            **(row.get("chat_template_kwargs") or {}),
            "tools": json.loads(tools) if isinstance(tools, str) else tools,
        }
        for chat, opened in _chats(row, columns):
            try:
                chat_text(tokenizer, chat, opened, **options)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"`{argument}` has a row that cannot be written, row {number} (the first is row 0): {error}"
                ) from error


def _chats(row: Mapping[str, Any], columns: list[str]) -> Iterator[tuple[list[dict[str, Any]], bool]]:
    """The chats of a row as TRL writes them, each with whether the assistant's turn is opened at its end."""
    chats = {name: [_as_written(name, message) for message in row[name]] for name in columns}
    prompt = chats.pop("prompt", [])
    if prompt:
        yield prompt, prompt[-1]["role"] != "assistant"
    for answered in chats.values():
        yield [*prompt, *answered], False


def _as_written(column: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message with the keys of chat templates, without those that other messages of the data set have."""
    names = dict(zip(KEYS.get(column, OTHER_KEYS), OTHER_KEYS, strict=True))
    return {names.get(key, key): value for key, value in message.items() if value is not None}


def check_common_prompts(argument: str, dataset: Dataset) -> None:
    """Raises `ValueError` for the first pair of chats that begin with no common message, which TRL would take for the prompt."""
    for row, pair in enumerate(dataset.select_columns(["chosen", "rejected"])):
        if not extract_prompt(pair)["prompt"]:
            raise ValueError(
                f"`{argument}` has no column 'prompt', and in row {row} (the first is row 0) 'chosen' and 'rejected' do not "
                "begin with the same message. Add the prompt to both, or leave the row out."
            )
