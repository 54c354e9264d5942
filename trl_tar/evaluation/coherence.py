"""Metrics of whether a model still speaks, which multiple choice does not see: a hollow model can choose as well as a whole
one.

Each metric gives one score a prompt. The verdict compares them with the base model's, see `verdict.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from .generation import continued
from .scores import DescribedMetric, Scores


NGRAM = 4  # tokens: a convention of metrics of repetition


@dataclass(frozen=True)
class Repetition(DescribedMetric):
    """Share of the 4-grams of a greedy answer that it has said before, in [0, 1]; 0 for fewer than five tokens.

    Args:
        prompts (`Sequence[str]`):
            Prompts to answer.
        max_new_tokens (`int`, *optional*, defaults to `64`):
            Longest answer.
    """

    is_share = True

    prompts: Sequence[str]
    max_new_tokens: int = 64

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        pairs = generated(model, tokenizer, self.prompts, self.max_new_tokens)
        return Scores([repeated_share(answer.tolist()) for _, answer in pairs])


@dataclass(frozen=True)
class AnswerEntropy(DescribedMetric):
    """Entropy of the first token of the answer, in nats: near log V a model knows nothing to say.

    Args:
        prompts (`Sequence[str]`):
            Prompts to answer.
    """

    prompts: Sequence[str]

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        values = []
        for prompt in self.prompts:
            ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
            with torch.no_grad():
                logits = model(input_ids=ids, use_cache=False).logits[0, -1].double()
            values.append(torch.distributions.Categorical(logits=logits, validate_args=False).entropy().item())
        return Scores(values)


@dataclass(frozen=True)
class AnswerNLL(DescribedMetric):
    """Cross-entropy of a greedy answer under the base model, in nats a token: how strange the base finds it.

    Args:
        prompts (`Sequence[str]`):
            Prompts to answer.
        base (`str`):
            Folder or Hub id of the base model.
        max_new_tokens (`int`, *optional*, defaults to `64`):
            Longest answer.
    """

    prompts: Sequence[str]
    base: str
    max_new_tokens: int = 64

    @cached_property
    def _base(self) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(self.base, dtype=torch.float32).eval()

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        base = self._base.to(model.device)
        values = []
        for prompt, answer in generated(model, tokenizer, self.prompts, self.max_new_tokens):
            ids = torch.cat([prompt, answer])[None]  # (1, T)
            with torch.no_grad():
                logits = base(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].double()
            values.append(F.cross_entropy(logits, answer).item())
        return Scores(values)


@dataclass(frozen=True)
class NoOption(DescribedMetric):
    """1 for an answer without an option letter, else 0: TAR's released model leaves it out in 22 % of its answers.

    Args:
        prompts (`Sequence[str]`):
            Questions with lettered options that ask for a letter.
        letters (`str`, *optional*, defaults to `"ABCD"`):
            The options.
        max_new_tokens (`int`, *optional*, defaults to `16`):
            Longest answer.
    """

    is_share = True

    prompts: Sequence[str]
    letters: str = "ABCD"
    max_new_tokens: int = 16
    _option: re.Pattern = field(init=False, repr=False, compare=False)

    def __post_init__(self):
        object.__setattr__(self, "_option", re.compile(rf"(?<![A-Za-z])[{re.escape(self.letters)}](?![A-Za-z])"))

    def __call__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Scores:
        pairs = generated(model, tokenizer, self.prompts, self.max_new_tokens)
        answers = [tokenizer.decode(answer, skip_special_tokens=True) for _, answer in pairs]
        return Scores([0.0 if self._option.search(answer) else 1.0 for answer in answers])


def generated(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Returns the token ids of each prompt, shape `(T,)`, and of its greedy answer, shape `(A,)`, the end of text included.

    Prompts are answered one at a time, so that padding changes none."""
    pairs = []
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
        # not the tokenizer's end alone: a chat model ends plain text with another token than a turn
        end = model.generation_config.eos_token_id
        said = continued(model, ids, torch.ones_like(ids), max_new_tokens, tokenizer.pad_token_id, end)
        pairs.append((ids[0], said[0]))
    return pairs


def repeated_share(ids: Sequence[int]) -> float:
    """Returns 1 − different 4-grams / all 4-grams, in [0, 1]."""
    ngrams = [tuple(ids[i : i + NGRAM]) for i in range(len(ids) - NGRAM + 1)]
    return 0.0 if len(ngrams) < 2 else 1 - len(set(ngrams)) / len(ngrams)
