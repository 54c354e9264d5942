"""Chats as a model's template writes them, with the special tokens that it writes and no others, as TRL trains on them."""

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from transformers import PreTrainedTokenizerBase


Messages = Sequence[Mapping[str, Any]]  # each `role` and `content`


def as_messages(prompt: str | Messages) -> list[dict[str, Any]]:
    """Returns text as one turn of a user, and messages as they are."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else [dict(each) for each in prompt]


def chat_text(tokenizer: PreTrainedTokenizerBase, messages: Messages, opened: bool, **options: Any) -> str:
    """Returns a chat as text.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its template writes the chat.
        messages (`Sequence[Mapping]`):
            The turns.
        opened (`bool`):
            Whether the assistant's next turn is opened at the end.
        **options:
            Variables of the template, such as `enable_thinking`, and `tools`.

    Raises:
        `ValueError`: for messages that the template refuses.
    """
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=opened, **options)
    except jinja2.TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ValueError(
            f"The chat template refuses turns of {roles} ({error}). Give turns as the template takes them."
        ) from error
    return str(text)


def chat_ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, opened: bool, **options: Any) -> list[int]:
    """Returns the tokens of [`chat_text`]; a tokenizer that begins every text with a token does not add a second one."""
    return list(tokenizer(chat_text(tokenizer, messages, opened, **options), add_special_tokens=False)["input_ids"])
