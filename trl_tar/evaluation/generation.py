"""Greedy answers of a model."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.tokenizers import check_chat_template, context_of


def continued(
    model: PreTrainedModel,
    ids: torch.Tensor,
    mask: torch.Tensor,
    max_new_tokens: int,
    pad: int | None,
    end: int | list[int] | None,
) -> torch.Tensor:
    """Returns the likeliest next tokens, one after the other, until the end of text, which is included.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, in evaluation mode.
        ids, mask (`torch.Tensor` of shape `(B, T)`):
            Prompts, padded on the left.
        max_new_tokens (`int`):
            Longest answer.
        pad (`int`, *optional*):
            Token after the end of a row.
        end (`int` or `list[int]`, *optional*):
            Token, or tokens, that end a text.

    Returns:
        `torch.Tensor` of shape `(B, A)`: token ids of the answers alone.
    """
    with torch.no_grad():
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=end,
        )
    return output[:, ids.shape[1] :]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[str],
    max_new_tokens: int,
    batch_size: int = 64,
) -> list[str]:
    """Returns what the model says to each request of a user, without special tokens.

    `ValueError` without a chat template, or for a request that is longer than the model's context.

    Args:
        model, tokenizer:
            With a chat template.
        requests (`Sequence[str]`):
            Requests, each one turn of a user.
        max_new_tokens (`int`):
            Longest answer, where the model's context leaves room for it.
        batch_size (`int`, *optional*, defaults to `64`):
            Requests that are answered at once, padded on the left.
    """
    check_chat_template(tokenizer)
    texts, context = [], context_of(model.config)
    for start in range(0, len(requests), batch_size):
        prompts = [_prompt(tokenizer, request) for request in requests[start : start + batch_size]]
        batch = tokenizer(prompts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
        ids = batch["input_ids"].to(model.device)
        mask = batch["attention_mask"].to(model.device)
        longest = min(max_new_tokens, _room(ids.shape[1], context) or max_new_tokens)
        said = continued(model, ids, mask, longest, tokenizer.pad_token_id, tokenizer.eos_token_id)
        texts += tokenizer.batch_decode(said, skip_special_tokens=True)
    return texts


def check_requests(tokenizer: PreTrainedTokenizerBase, requests: Sequence[str], context: int | None) -> None:
    """Raises `ValueError` without a chat template, or for a request that leaves no room in the model's context."""
    check_chat_template(tokenizer)
    for request in requests:
        _room(len(tokenizer(_prompt(tokenizer, request), add_special_tokens=False)["input_ids"]), context)


def _prompt(tokenizer: PreTrainedTokenizerBase, request: str) -> str:
    chat = [{"role": "user", "content": request}]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


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
