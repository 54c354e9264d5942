"""Rows of chat messages that TRL would stop at late, or train on wrongly: refused by row and column."""

import reprlib
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from trl import extract_prompt


# column → keys of its messages, others are of OTHER_KEYS
KEYS = {"conversations": ("from", "value")}
OTHER_KEYS = ("role", "content")
SHARE_GPT = ("human", "gpt")  # TRL hands them to the chat template as they are


def check_messages(argument: str, column: str, dataset: Dataset) -> None:
    """Raises `ValueError` for the first cell that is no list of messages with role and content.

    The content may be missing beside calls of tools, and may be a list of blocks.

    Args:
        argument (`str`):
            Name of the data set, for the message.
        column (`str`):
            Of messages.
        dataset ([`~datasets.Dataset`]):
            Of one of TRL's conversational types.
    """
    who, said = KEYS.get(column, OTHER_KEYS)
    cells = (cell for batch in dataset.select_columns(column).iter(1000) for cell in batch[column])
    for row, messages in enumerate(cells):
        found = f"in the column {column!r} of row {row} (the first is row 0)"
        if not isinstance(messages, list) or not messages:
            raise ValueError(f"`{argument}` has {shortened(messages)} {found}. Give at least one message.")
        for message in messages:
            if not isinstance(message, Mapping) or not _complete(message, who, said):
                raise ValueError(
                    f"`{argument}` has {shortened(message)} {found}. Give messages with text as {who!r} and {said!r}."
                )
            if message[who] in SHARE_GPT:
                raise ValueError(
                    f"`{argument}` has {who}={message[who]!r} {found}. Use 'user' and 'assistant', which chat templates "
                    "know; in a YAML file, format: conversations does."
                )


def _complete(message: Mapping[str, Any], who: str, said: str) -> bool:
    return isinstance(message.get(who), str) and (
        isinstance(message.get(said), str | list) or bool(message.get("tool_calls"))
    )


def check_common_prompts(argument: str, dataset: Dataset) -> None:
    """Raises `ValueError` for a pair of chats without `prompt` that have no message in common to be taken for it."""
    for row, pair in enumerate(dataset.select_columns(["chosen", "rejected"])):
        if not extract_prompt(pair)["prompt"]:
            raise ValueError(
                f"`{argument}` has no column 'prompt', and in row {row} (the first is row 0) 'chosen' and 'rejected' do not "
                "begin with the same message. Add the prompt to both, or leave the row out."
            )


def shortened(value: Any) -> str:
    """A value on one line of a message."""
    shown = reprlib.Repr()
    shown.maxstring = shown.maxother = 80
    return shown.repr(value)
