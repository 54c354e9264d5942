"""Checks of chat messages: rows at which TRL stops late, or on which it trains wrongly, are refused by row and column."""

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from trl import extract_prompt

from ..validation import shortened


# column → keys of a message's author and text; in other columns these are OTHER_KEYS
KEYS = {"conversations": ("from", "value")}
OTHER_KEYS = ("role", "content")
SHARE_GPT = ("human", "gpt")  # authors in ShareGPT's format, which TRL passes to the chat template as they are


def check_messages(argument: str, column: str, dataset: Dataset) -> None:
    """Raises `ValueError` for the first cell that is no list of messages with author and text.

    The text may be a list of blocks, and may be missing in a message that calls tools.

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
                    f"`{argument}` has {shortened(message)} {place}. Give messages with text as {author!r} and {text!r}."
                )
            if message[author] in SHARE_GPT:
                raise ValueError(
                    f"`{argument}` has {author}={message[author]!r} {place}. Use 'user' and 'assistant', which chat templates "
                    "know; in a YAML file, format: conversations does."
                )


def _complete(message: Mapping[str, Any], author: str, text: str) -> bool:
    return isinstance(message.get(author), str) and (
        isinstance(message.get(text), str | list) or bool(message.get("tool_calls"))
    )


def check_common_prompts(argument: str, dataset: Dataset) -> None:
    """Raises `ValueError` for the first pair of chats that begin with no common message, which TRL would take for the prompt."""
    for row, pair in enumerate(dataset.select_columns(["chosen", "rejected"])):
        if not extract_prompt(pair)["prompt"]:
            raise ValueError(
                f"`{argument}` has no column 'prompt', and in row {row} (the first is row 0) 'chosen' and 'rejected' do not "
                "begin with the same message. Add the prompt to both, or leave the row out."
            )
