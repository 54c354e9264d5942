"""Greedy answers of a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.chat_templates import Messages, as_messages, chat_text
from ..models.generation import continued, end_tokens, without_end
from ..models.tokenizers import check_chat_template, context_of
from .thoughts import decoded, open_thoughts


@dataclass(frozen=True)
class Chat:
    """A request in messages.

    Args:
        messages (`Sequence[Mapping]`):
            The turns, which the assistant is to answer.
        options (`dict`, *optional*):
            What TRL would hand to the template beside them.
    """

    messages: Messages
    options: Mapping[str, Any] = field(default_factory=dict)


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[str | Chat],
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Returns what the model says to each request of a user, up to any of the tokens that end its turn, without special tokens
    other than those that mark thoughts.

    Where the template begins thoughts by itself, the answer begins with their mark too.

    `ValueError` without a chat template, or for a request that is longer than the model's context.

    Args:
        model, tokenizer:
            With a chat template.
        requests (`Sequence`):
            Requests, each the text of a user's turn, or a [`Chat`].
        max_new_tokens (`int`):
            Longest answer, where the model's context leaves room for it.
        batch_size (`int`, *optional*, defaults to `64`):
            Requests that are answered at once, padded on the left.
    """
    check_chat_template(tokenizer)
    texts, context = [], context_of(model.config)
    ends = end_tokens(model.config, model.generation_config, tokenizer)
    for start in range(0, len(requests), batch_size):
        prompts = [_prompt(tokenizer, request) for request in requests[start : start + batch_size]]
        whole = [before + written for before, written in prompts]
        batch = tokenizer(whole, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
        ids = batch["input_ids"].to(model.device)
        mask = batch["attention_mask"].to(model.device)
        longest = min(max_new_tokens, _room(ids.shape[1], context) or max_new_tokens)
        said = continued(model, tokenizer, ids, mask, longest)
        ended = [without_end(row, ends).tolist() for row in said]
        opened = [open_thoughts(written) for _, written in prompts]
        texts += [mark + text for mark, text in zip(opened, decoded(tokenizer, ended), strict=True)]
    return texts


def check_requests(tokenizer: PreTrainedTokenizerBase, requests: Sequence[str | Chat], context: int | None) -> None:
    """Raises `ValueError` without a chat template, for a request that it refuses, or that leaves no room in the model's context."""
    check_chat_template(tokenizer)
    for request in requests:
        _room(len(tokenizer("".join(_prompt(tokenizer, request)), add_special_tokens=False)["input_ids"]), context)


def _prompt(tokenizer: PreTrainedTokenizerBase, request: str | Chat) -> tuple[str, str]:
    """Returns the chat, and what the template writes after it to open the assistant's turn, where thoughts may be begun."""
    chat = Chat(as_messages(request)) if isinstance(request, str) else request
    before, whole = (chat_text(tokenizer, chat.messages, opened, **chat.options) for opened in (False, True))
    return (before, whole.removeprefix(before)) if whole.startswith(before) else ("", whole)


def _room(length: int, context: int | None) -> int | None:
    """Returns the number of tokens that the model's context leaves for an answer to a request of that length; `None` without an end."""
    if context is None:
        return None
    if length >= context:
        raise ValueError(
            f"A request has {length} tokens, and the model's context of {context} leaves none for an answer. Shorten the "
            "requests."
        )
    return context - length
