"""Text that a model writes itself, from a few neutral beginnings: data for distillation without anybody's data.

What a model samples says what it does outside D_retain. An anchor there keeps it.
"""

import re
from collections.abc import Collection, Sequence

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.generation import continued, end_tokens, without_end


# beginnings of sentences, questions, headings, lists and lines of a chat; a choice, none about a subject
BEGINNINGS = (
    *(
        "The",
        "In",
        "A",
        "There",
        "It is",
        "Most",
        "If you",
        "Many",
        "To",
        "For",
        "One day",
        "She",
        "He",
        "They",
        "We",
        "I",
    ),
    *("How", "Why", "When", "What is", "Which", "Q: What", "Q: How", "Question: Which", "Question: Why"),
    *(
        "User: Can you",
        "User: What",
        "Dear",
        "Once upon a time",
        "Step 1:",
        "- ",
        "1.",
        "# ",
        "Title:",
        "Today",
        "According to",
    ),
)
SELF_WRITTEN = "self-written text"  # the `entity` of every row
MAX_DRAWS = 20  # times the rows asked for, after which a filter that lets nothing through is an error; a choice


def self_written(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    beginnings: Sequence[str] = BEGINNINGS,
    num_rows: int = 320,
    max_new_tokens: int = 60,
    temperature: float = 1.0,
    top_p: float = 0.95,
    seed: int = 0,
    excluded: Collection[str] = (),
    batch_size: int = 64,
) -> Dataset:
    """Samples continuations of beginnings, which are taken in turn.

    A continuation that is cut off ends with its last whole sentence, if it has one, since whoever trains on it would also
    learn to stop in the middle. The same arguments give the same rows, on the same device and version of PyTorch.

    Args:
        model, tokenizer:
            The writer, in evaluation mode.
        beginnings (`Sequence[str]`, *optional*):
            Beginnings of texts, which are the prompts.
        num_rows (`int`, *optional*, defaults to `320`):
            Number of rows.
        max_new_tokens (`int`, *optional*, defaults to `60`):
            Most tokens of a completion.
        temperature (`float`, *optional*, defaults to `1.0`):
            Temperature of sampling.
        top_p (`float`, *optional*, defaults to `0.95`):
            Share of the probability that tokens are drawn from.
        seed (`int`, *optional*, defaults to `0`):
            Seed of all draws. The caller's random numbers stay as they are.
        excluded (`Collection[str]`, *optional*):
            Words of the hazard: a text that holds one, in upper or lower case, is drawn again.
        batch_size (`int`, *optional*, defaults to `64`):
            Texts that are written at once, padded on the left.

    Returns:
        `Dataset`: columns `prompt`, `completion` and `entity`, in TRL's prompt-completion type.

    Raises:
        `ValueError`: if nearly every text is empty or holds an excluded word.
    """
    hazard = _any_of(excluded)
    rows: list[dict[str, str]] = []
    drawn = 0
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        while len(rows) < num_rows:
            if drawn >= MAX_DRAWS * num_rows:
                raise ValueError(
                    f"Of {drawn} texts that the model wrote, {len(rows)} are neither empty nor hold an excluded word. Give "
                    "fewer excluded words, or other beginnings."
                )
            prompts = [beginnings[(drawn + i) % len(beginnings)] for i in range(batch_size)]
            drawn += batch_size
            for prompt, text in zip(
                prompts, _sampled(model, tokenizer, prompts, max_new_tokens, temperature, top_p), strict=True
            ):
                read = (prompt + text, f"{prompt} {text}")  # as a word that goes on, and as words of their own
                if text.strip() and not (hazard and any(map(hazard.search, read))):
                    rows.append({"prompt": prompt, "completion": text, "entity": SELF_WRITTEN})
    return Dataset.from_list(rows[:num_rows])


def _sampled(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    temperature: float,
    top_p: float,
) -> list[str]:
    """One continuation of each prompt, without special tokens; cut texts end with a whole sentence."""
    batch = tokenizer(list(prompts), padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    ids, mask = (batch[name].to(model.device) for name in ("input_ids", "attention_mask"))
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    rows = continued(model, tokenizer, ids, mask, max_new_tokens, **sampling)
    ends = end_tokens(model.config, model.generation_config, tokenizer)
    written = [without_end(row, ends) for row in rows]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    ended = [len(text) < len(row) for text, row in zip(written, rows, strict=True)]
    return [text if end else whole_sentences(text) or text for text, end in zip(texts, ended, strict=True)]


def whole_sentences(text: str) -> str | None:
    """The text up to the end of its last whole sentence; `None` where it has none."""
    sentences = re.match(r".*[.!?][\"”]?(?=\s|$)", text, re.DOTALL)
    return sentences and sentences[0]


def _any_of(words: Collection[str]) -> re.Pattern[str] | None:
    """Matches any of the words as a whole, or its plural; `None` where there is none."""
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<!\w)(?:{alternatives})s?(?!\w)", re.IGNORECASE) if words else None
