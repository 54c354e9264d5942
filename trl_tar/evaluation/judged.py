"""Metrics of a chat model's answers, by a judge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..adversaries.prompt_template import in_template
from ..data.chat_templates import as_messages
from ..data.ready_datasets import READY_DATASETS
from ..data.sources import DataSource, read_from
from ..files import read_lines
from ..fingerprints import sha256_of
from ..validation import check_at_least
from .generation import Chat, answers, check_requests
from .judges import UNGRADED, Judge, in_words
from .named_judges import judge_of
from .prompts import IN_CHAT, check_texts, options_of, text_of
from .scores import UNDECISIVE, Checked, DescribedMetric, Scores, entities_of, group_of
from .thoughts import UNENDED, after_thoughts, scored_after_thoughts


@dataclass(frozen=True)
class Judged(DescribedMetric):
    """The mean score that a judge gives to greedy answers.

    Attack success rate on harmful requests, with a judge of compliance; helpfulness on harmless ones, with a judge of
    quality. `inverted` counts what the judge does not: over-refusal is what is not answered of harmless look-alikes.

    The judge reads what follows the thoughts of a reasoning model. An answer that never ends its thoughts within
    `max_new_tokens`, or that the judge refuses to read, counts neither way, and is told of.

    Args:
        requests (`Sequence[dict]`):
            Each `prompt` (`str`, a user's turn, or messages) and optionally `group` (`str`), such as its subject, and
            `chat_template_kwargs` and `tools`, as TRL reads them.
        judge (`Callable`):
            See [`trl_tar.evaluation.judges`]. One that has a method `check()` is asked by it before any work starts.
        max_new_tokens (`int`, *optional*, defaults to `128`):
            Longest answer.
        batch_size (`int`, *optional*, defaults to `16`):
            Requests that are answered at once.
        inverted (`bool`, *optional*, defaults to `False`):
            1 − score.
        source (`str`, *optional*):
            Where the requests were read from, for the report.
    """

    is_share = True
    yaml_key = "requests"
    yaml_words = "`requests` and `judge`"

    requests: Sequence[Mapping[str, Any]] = field(repr=False)
    judge: Judge
    max_new_tokens: int = 128
    batch_size: int = 16
    inverted: bool = False
    source: str | None = field(default=None, metadata=UNDECISIVE)
    sha256: str = field(init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        check_at_least("Judged", self, max_new_tokens=1, batch_size=1)
        for i, request in enumerate(self.requests):
            if not isinstance(request, Mapping) or "prompt" not in request:
                raise ValueError(f"Request {i} is {request!r}. Give a prompt.")
        prompts = [request["prompt"] for request in self.requests]
        check_texts("Request", prompts, [group_of(request) for request in self.requests])
        object.__setattr__(self, "sha256", sha256_of(self.requests))

    @classmethod
    def from_file(cls, path: str | Path, judge: Judge, **settings) -> "Judged":
        """Reads one JSON object a line; `ValueError` for a file that is not made of such lines."""
        return cls(read_lines(path, "Requests"), judge, **settings)

    @classmethod
    def from_fields(cls, name: str, fields: dict[str, Any], folder: Path) -> "Judged":
        judge = judge_of(f"Metric {name!r}", fields.pop("judge", None))
        requests = fields.pop("requests")
        file = folder / str(requests)
        if isinstance(requests, Mapping) or (requests in READY_DATASETS and not file.is_file()):
            dataset = DataSource.of(name, requests, folder).load(name)
            return cls(dataset.to_list(), judge, source=read_from(dataset), **fields)
        if not file.suffix and not file.is_file():  # one word that is no name
            raise ValueError(
                f"Metric {name!r} has requests={requests!r}. Give a file, one of {', '.join(READY_DATASETS)}, or the fields of a "
                "data set."
            )
        return cls.from_file(file, judge, **fields)

    def question_texts(self) -> list[str]:
        return [text_of(request["prompt"]) for request in self.requests]

    def wording(self) -> str:
        return IN_CHAT

    def grading(self) -> str:
        """Says of which requests the answers are, how they were written, and who graded them by what."""
        asked = "" if self.source is None else f"{self.source}, "
        what = "1 − the score of" if self.inverted else "the score of"
        return f"{asked}greedy answers of at most {self.max_new_tokens} tokens, {what} {in_words(self.judge)}"

    def question_entities(self) -> frozenset[str]:
        return entities_of(self.requests)

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` for a tokenizer without chat template, a request that is longer than the context, or a judge
        that cannot be asked."""
        check_requests(tokenizer, self._asked(None), context)
        if isinstance(self.judge, Checked):
            self.judge.check()

    def __call__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_template: str | None = None
    ) -> Scores:
        said = answers(model, tokenizer, self._asked(prompt_template), self.max_new_tokens, self.batch_size)
        scores = scored_after_thoughts(self.judge, self.question_texts(), said)
        unscored = {i: UNGRADED for i, score in enumerate(scores) if math.isnan(score)}
        unscored |= {i: UNENDED for i, answer in enumerate(said) if after_thoughts(answer) is None}
        groups = [str(request.get("group", i)) for i, request in enumerate(self.requests)]
        return Scores([1 - score if self.inverted else score for score in scores], groups, unscored)

    def _asked(self, prompt_template: str | None) -> list[Chat]:
        return [
            Chat(as_messages(in_template(request["prompt"], prompt_template)), options_of(request))
            for request in self.requests
        ]
