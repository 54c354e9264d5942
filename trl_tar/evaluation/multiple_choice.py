"""Choice among given answers by likelihood."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..adversaries.prompt_template import in_template
from ..files import read_lines
from ..fingerprints import sha256_of
from ..validation import check_at_least
from .likelihoods import likelihoods_of_tokens
from .prompts import (
    Prompt,
    Tokens,
    answer_in_turn,
    asked,
    check_chat,
    check_texts,
    check_tokens,
    options_of,
    said_after,
    tokens_of,
    wording,
)
from .scores import DescribedMetric, Scores, entities_of, group_of


COLUMNS = ("prompt", "choices", "answer")
# draws of distractors that a score is averaged over where there are more than are offered; a choice
DISTRACTOR_DRAWS = 8


def choose(log_likelihoods: torch.Tensor, draws: int, choices: int = 4) -> torch.Tensor:
    """Returns the share of draws in which the right answer is the likeliest of `choices`.

    Args:
        log_likelihoods (`torch.Tensor` of shape `(N, A)`):
            Log-likelihood of each answer to each question, in nats, up to a constant a question; the right answer comes
            first, the other A − 1 are candidates for distractors.
        draws (`int`):
            Draws of distractors a question. They are a function of the question's position, the same for every model.
        choices (`int`, *optional*, defaults to `4`):
            Answers offered, the right one included.

    Returns:
        `torch.Tensor` of shape `(N,)`: in [0, 1], float64. A tie counts as wrong, so that a constant model scores 0.
        NaN where a likelihood is not finite: a broken model is not a wrong one.
    """
    n, answers = log_likelihoods.shape
    generator = torch.Generator().manual_seed(answers)
    order = torch.rand(n, draws, answers - 1, generator=generator).argsort(-1)[..., : choices - 1] + 1  # (N, draws, 3)
    offered = log_likelihoods[:, None, :].expand(n, draws, answers).gather(2, order.to(log_likelihoods.device))
    share = (log_likelihoods[:, None, :1] > offered).all(-1).double().mean(1)
    return share.masked_fill(~log_likelihoods.isfinite().all(1), torch.nan)


@dataclass(frozen=True)
class MultipleChoice(DescribedMetric):
    """Accuracy on questions with given choices: the answer must be the likeliest continuation of its prompt.

    The likelihood of a choice is the product over its tokens, as in lm-eval's `acc`. A tie counts as wrong; a question
    with a likelihood that is not finite scores NaN. In a chat a choice is the assistant's turn, its end included, token by
    token what TRL trains on.

    Args:
        questions (`Sequence[dict]`):
            Each `prompt` (`str`, or messages, which go through the chat template), `choices` (`list[str]`, two or more, after
            plain text each with the space that goes before it, after messages without), `answer` (`int`, position of the right
            choice, from 0) and optionally `group` (`str`, such as the entity it asks about), `chat_template_kwargs` and `tools`
            (as TRL reads them).
        batch_size (`int`, *optional*, defaults to `64`):
            Prompts with one choice each in a forward pass.
        chat (`bool`, *optional*):
            `True` asks a plain prompt as a user's turn; `False` says that plain text is meant, also where attacks train on chats.
    """

    is_share = True
    yaml_key = "questions"
    yaml_words = "`questions`, a file"

    questions: Sequence[Mapping[str, Any]] = field(repr=False)
    batch_size: int = 64
    chat: bool | None = None
    sha256: str = field(init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        check_at_least("MultipleChoice", self, batch_size=1)
        check_questions(self.questions, self.chat)
        object.__setattr__(self, "sha256", sha256_of(self.questions))

    @classmethod
    def from_file(cls, path: str | Path, **settings) -> "MultipleChoice":
        """Reads one JSON object a line; `ValueError` for a file that is not made of such lines."""
        return cls(read_lines(path, "Questions"), **settings)

    @classmethod
    def from_fields(cls, name: str, fields: dict[str, Any], folder: Path) -> "MultipleChoice":
        return cls.from_file(folder / str(fields.pop("questions")), **fields)

    def higher_is_better(self) -> bool:
        return True

    def question_texts(self) -> list[str]:
        return [said_after(q["prompt"], q["choices"][q["answer"]]) for q in self.questions]

    def question_entities(self) -> frozenset[str]:
        return entities_of(self.questions)

    def wording(self) -> str:
        return wording([question["prompt"] for question in self.questions], self.chat)

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` for a question that the chat template refuses, is longer than the context with one of its choices,
        or has a choice without a token to score."""
        rows = (
            (i, *pair, options_of(question))
            for i, question in enumerate(self.questions)
            for pair in pairs_of(question, self.chat)
        )
        check_tokens(tokenizer, "Question", rows, context)

    def __call__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_template: str | None = None
    ) -> Scores:
        rows = [row for question in self.questions for row in rows_of(tokenizer, question, self.chat, prompt_template)]
        likelihoods: list[float] = []
        for start in range(0, len(rows), self.batch_size):
            likelihoods += likelihoods_of_tokens(model, rows[start : start + self.batch_size]).tolist()
        values, start = [], 0
        for question in self.questions:
            end = start + len(question["choices"])
            values.append(_is_likeliest(torch.tensor(likelihoods[start:end]), question["answer"]))
            start = end
        groups = [str(q.get("group", i)) for i, q in enumerate(self.questions)]
        return Scores(values, groups)


def pairs_of(
    question: Mapping[str, Any], chat: bool | None, prompt_template: str | None = None
) -> list[tuple[Prompt, str]]:
    """Returns the prompt of a question, as it is asked, with each of its choices."""
    prompt = question["prompt"]
    worded = asked(in_template(prompt, prompt_template), chat)
    return [(worded, answer_in_turn(prompt, choice, chat)) for choice in question["choices"]]


def rows_of(
    tokenizer: PreTrainedTokenizerBase,
    question: Mapping[str, Any],
    chat: bool | None,
    prompt_template: str | None = None,
) -> list[tuple[Tokens, Tokens]]:
    """Returns the tokens of a question, and of each of its choices.

    All choices begin at one place: where one of them merges with the end of the prompt, that end counts for all."""
    options = options_of(question)
    rows = [tokens_of(tokenizer, *pair, **options) for pair in pairs_of(question, chat, prompt_template)]
    start = min(len(before) for before, _ in rows)
    return [(before[:start], before[start:] + scored) for before, scored in rows]


def _is_likeliest(likelihoods: torch.Tensor, answer: int) -> float:
    if not likelihoods.isfinite().all():
        return float("nan")
    others = torch.cat([likelihoods[:answer], likelihoods[answer + 1 :]])
    return float(likelihoods[answer] > others.max())


def check_questions(questions: Sequence[Mapping[str, Any]], chat: bool | None = None) -> None:
    """Raises `ValueError` for a question without prompt, choices or answer, or of which one is none."""
    for i, question in enumerate(questions):
        missing = [name for name in COLUMNS if not isinstance(question, Mapping) or name not in question]
        if missing:
            raise ValueError(f"Question {i} has no {missing[0]!r}. Give prompt, choices and answer.")
        if not isinstance(question["choices"], list | tuple) or len(question["choices"]) < 2:
            raise ValueError(f"Question {i} has choices={question['choices']!r}. Give a list of two or more.")
    prompts = [question["prompt"] for question in questions]
    check_texts("Question", prompts, [[*question["choices"], *group_of(question)] for question in questions])
    check_chat("Question", prompts, chat)
    for i, question in enumerate(questions):
        _check_choices(i, question, chat)


def _check_choices(i: int, question: Mapping[str, Any], chat: bool | None) -> None:
    choices, answer = question["choices"], question["answer"]
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"Question {i} has answer={answer!r}. Give the position of the right choice, from 0.")
    compared = [choice for _, choice in pairs_of(question, chat)]
    if "" in compared or compared.count(compared[answer]) > 1:
        raise ValueError(
            f"Question {i} has choices={choices!r}, of which one is empty or the right one is there twice, so that nothing tells "
            "them apart. Give different texts."
        )
    if not isinstance(question["prompt"], str) and (spaced := [text for text in choices if text[0].isspace()]):
        raise ValueError(
            f"Question {i} is messages and has the choice {spaced[0]!r}, which begins with white space. Give the words of the "
            "answer alone: the template writes what goes before them."
        )
