"""How questions become tokens: as plain text, or through the chat template as TRL trains on the same turns."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data.chat_templates import Messages, as_messages, chat_ids
from ..files import SURROGATE
from ..models.tokenizers import check_chat_template
from ..validation import shortened


Prompt = str | Messages
Tokens = tuple[int, ...]
IN_CHAT, IN_TEXT = "chat template", "plain text"  # how a metric asks, as a report names it


def text_of(prompt: Prompt) -> str:
    """Returns what a prompt says, without the words of a template."""
    return prompt if isinstance(prompt, str) else "\n".join(str(message["content"]) for message in prompt)


def said_after(prompt: Prompt, answer: Prompt) -> str:
    """Returns what a prompt and its answer say together; an answer to plain text follows it as it is."""
    return text_of(prompt) + ("" if isinstance(prompt, str) else "\n") + text_of(answer)


def check_texts(owner: str, prompts: Sequence[Any], others: Sequence[Sequence[Any]] = ()) -> None:
    """Checks that each prompt is text or messages, and what goes with it text.

    Args:
        owner (`str`):
            What a row is called in the message, such as `"Question"`.
        prompts (`Sequence`):
            Prompts, each text or messages of role and content.
        others (`Sequence[Sequence]`, *optional*):
            Further texts of each row, such as the choices.

    Raises:
        `ValueError`: for the first row with anything else, or with half of a character.
    """
    for i, prompt in enumerate(prompts):
        also = others[i] if others else ()
        if not is_prompt(prompt) or not all(isinstance(text, str) for text in also):
            chat = isinstance(prompt, list) and not is_prompt(prompt)
            wanted = "messages, each with role and text as content" if chat else "text, numbers in quotes"
            shown = (
                f"prompt={shortened(prompt)}" if not also else f"prompt={shortened(prompt)} and {shortened(list(also))}"
            )
            raise ValueError(f"{owner} {i} has {shown}. Give {wanted}.")
        cut = next((text for text in (text_of(prompt), *also) if SURROGATE.search(text)), None)
        if cut is not None:
            raise ValueError(
                f"{owner} {i} has half of a character in {shortened(cut)}, as a cut text leaves it. Mend the text."
            )


def is_prompt(prompt: Any) -> bool:
    """Returns whether this is text, or messages of role and text."""
    if isinstance(prompt, str):
        return True
    return bool(isinstance(prompt, list | tuple) and prompt) and all(
        isinstance(each, Mapping) and isinstance(each.get("role"), str) and isinstance(each.get("content"), str)
        for each in prompt
    )


def check_chat(owner: str, prompts: Sequence[Prompt], chat: bool | None) -> None:
    """Raises `ValueError` where some prompts would go through the chat template and others not."""
    in_messages = [not isinstance(prompt, str) for prompt in prompts]
    if chat is False and any(in_messages):
        raise ValueError(
            f"{owner} {in_messages.index(True)} is messages, and chat is false. Give text, or leave chat out."
        )
    if chat is None and any(in_messages) and not all(in_messages):
        raise ValueError(
            f"{owner} {in_messages.index(True)} is messages and {owner.lower()} {in_messages.index(False)} plain text. Give "
            "messages in all of them, or chat: true."
        )


def wording(prompts: Iterable[Prompt], chat: bool | None) -> str:
    """Returns how the prompts are asked, `IN_CHAT` or `IN_TEXT`."""
    return IN_CHAT if chat or any(not isinstance(prompt, str) for prompt in prompts) else IN_TEXT


def asked(prompt: Prompt, chat: bool | None) -> Prompt:
    """Returns the prompt as messages where it goes through the chat template, and as text where not."""
    return as_messages(prompt) if chat else prompt


def answer_in_turn(prompt: Prompt, answer: Any, chat: bool | None) -> Any:
    """Returns an answer to a plain prompt without the space that stands before it in plain text, where it has a turn of its own."""
    return answer.strip() if chat and isinstance(prompt, str) else answer


def options_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what TRL would hand to the chat template from the other columns of a row."""
    tools = row.get("tools") or None
    named = {} if tools is None else {"tools": json.loads(tools) if isinstance(tools, str) else tools}
    return {**named, **(row.get("chat_template_kwargs") or {})}


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, **options: Any) -> list[int]:
    """Returns the tokens after which a model answers: those of the text, or of the chat with the next turn opened.

    What a tokenizer adds behind every text, such as its end, is left out: nothing is to be said after it."""
    if isinstance(prompt, str):
        encoded = tokenizer(prompt, return_special_tokens_mask=True)
        added = itertools.takewhile(bool, reversed(encoded["special_tokens_mask"]))
        return list(encoded["input_ids"])[: len(encoded["input_ids"]) - sum(1 for _ in added)]
    return chat_ids(tokenizer, prompt, opened=True, **options)


def tokens_of(
    tokenizer: PreTrainedTokenizerBase, prompt: Prompt, answer: str | Messages, **options: Any
) -> tuple[Tokens, Tokens]:
    """Tokens of a prompt and of its answer, as TRL trains on them.

    Tokens are those of both together. The answer begins where they differ from those of the prompt alone, also inside the
    prompt, where tokens merge over the border. In a chat it ends with what the template writes after a turn.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        prompt (`str` or `Sequence[Mapping]`):
            Plain text, or messages for the chat template.
        answer (`str` or `Sequence[Mapping]`):
            What follows; to messages, the assistant's words, or messages.
        **options:
            Variables of the template.

    Returns:
        `tuple`: tokens before the first one that counts, at least one, as it is predicted from nothing; and those that count.
    """
    alone = prompt_ids(tokenizer, prompt, **options)
    if isinstance(prompt, str):
        row = tuple(tokenizer(prompt + str(answer))["input_ids"])
    else:
        turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
        row = tuple(chat_ids(tokenizer, [*prompt, *turns], opened=False, **options))
    start = max(common_length([row, alone]), 1)
    return row[:start], row[start:]


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """Returns the number of tokens that all rows begin with alike."""
    shortest = min(map(len, rows))
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)


def check_tokens(
    tokenizer: PreTrainedTokenizerBase,
    owner: str,
    rows: Iterable[tuple[int, Prompt, str | Messages, Mapping[str, Any]]],
    context: int | None,
) -> None:
    """Checks that every answer has a token to score, and none is longer than the model's context.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        owner (`str`):
            What a row is called in the message.
        rows (`Iterable[tuple]`):
            Number of the row, prompt, answer and options of the template.
        context (`int`, *optional*):
            Tokens that the model can read; `None` where it has no end.

    Raises:
        `ValueError`: for the first row that cannot be scored.
    """
    for i, prompt, answer, options in rows:
        if not isinstance(prompt, str):
            check_chat_template(tokenizer)
        before, scored = tokens_of(tokenizer, prompt, answer, **options)
        shown = shortened(text_of(prompt)[:40])
        if not scored:
            raise ValueError(
                f"{owner} {i}, {shown}, has the answer {shortened(answer)}, no token of which is predicted from others. Give a "
                "longer answer, or a prompt that is not empty."
            )
        count = len(before) + len(scored)
        if context is not None and count > context + 1:  # nothing is predicted from the last one
            raise ValueError(
                f"{owner} {i}, {shown}, has {count} tokens with an answer, and the model's context {context}. Leave it out, or "
                "shorten it."
            )


def check_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], context: int | None) -> None:
    """Raises `ValueError` for a prompt without a token, refused by the chat template, or that leaves no room for an answer."""
    for i, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            check_chat_template(tokenizer)
        count = len(prompt_ids(tokenizer, prompt))
        if count == 0 or (context is not None and count >= context):
            raise ValueError(
                f"Prompt {i}, {shortened(text_of(prompt)[:40])}, has {count} tokens, and the model's context is "
                f"{context}: it needs at least one, and room for an answer. Give another prompt."
            )
