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
from .likelihoods import check_lengths, log_likelihoods
from .scores import DescribedMetric, Scores, entities_of


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
    with a likelihood that is not finite scores NaN.

    Args:
        questions (`Sequence[dict]`):
            Each `prompt` (`str`), `choices` (`list[str]`, two or more, each with the space that goes before it), `answer`
            (`int`, position of the right choice) and optionally `group` (`str`, such as the entity it asks about).
        batch_size (`int`, *optional*, defaults to `64`):
            Prompts with one choice each in a forward pass.
    """

    is_share = True

    questions: Sequence[Mapping[str, Any]] = field(repr=False)
    batch_size: int = 64
    sha256: str = field(init=False)  # in the representation, which tells apart the jobs of a red team

    def __post_init__(self):
        check_questions(self.questions)
        object.__setattr__(self, "sha256", sha256_of(self.questions))

    @classmethod
    def from_file(cls, path: str | Path) -> "MultipleChoice":
        """Reads one JSON object a line; `ValueError` for a file that is not made of such lines."""
        return cls(read_lines(path, "Questions"))

    def question_texts(self) -> list[str]:
        return [question["prompt"] + question["choices"][question["answer"]] for question in self.questions]

    def question_entities(self) -> frozenset[str]:
        return entities_of(self.questions)

    def check(self, tokenizer: PreTrainedTokenizerBase, context: int | None = None) -> None:
        """Raises `ValueError` for a question that is longer than the context with one of its choices."""
        check_lengths(tokenizer, [(q["prompt"], choice) for q in self.questions for choice in q["choices"]], context)

    def __call__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt_template: str | None = None
    ) -> Scores:
        pairs = [(in_template(q["prompt"], prompt_template), choice) for q in self.questions for choice in q["choices"]]
        likelihoods: list[float] = []
        for start in range(0, len(pairs), self.batch_size):
            likelihoods += log_likelihoods(model, tokenizer, pairs[start : start + self.batch_size]).tolist()
        values, start = [], 0
        for question in self.questions:
            end = start + len(question["choices"])
            values.append(_is_likeliest(torch.tensor(likelihoods[start:end]), question["answer"]))
            start = end
        groups = [str(q.get("group", i)) for i, q in enumerate(self.questions)]
        return Scores(values, groups)


def _is_likeliest(likelihoods: torch.Tensor, answer: int) -> float:
    if not likelihoods.isfinite().all():
        return float("nan")
    others = torch.cat([likelihoods[:answer], likelihoods[answer + 1 :]])
    return float(likelihoods[answer] > others.max())


def check_questions(questions: Sequence[Mapping[str, Any]]) -> None:
    """Raises `ValueError` for a question without prompt, choices or answer."""
    for i, question in enumerate(questions):
        _check(i, question)


def _check(i: int, question: Mapping[str, Any]) -> None:
    missing = [name for name in COLUMNS if not isinstance(question, Mapping) or name not in question]
    if missing:
        raise ValueError(f"Question {i} has no {missing[0]!r}. Give prompt, choices and answer.")
    choices, answer = question["choices"], question["answer"]
    if not isinstance(choices, list | tuple) or len(choices) < 2:
        raise ValueError(f"Question {i} has choices={choices!r}. Give a list of two or more.")
    if not all(isinstance(text, str) for text in (question["prompt"], *choices)):
        raise ValueError(
            f"Question {i} has prompt={question['prompt']!r} and choices={choices!r}. Give text, numbers in quotes."
        )
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(f"Question {i} has answer={answer!r}. Give the position of the right choice, from 0.")
    if "" in choices or choices.count(choices[answer]) > 1:
        raise ValueError(
            f"Question {i} has choices={choices!r}, of which one is empty or the right one is there twice, so that nothing tells "
            "them apart. Give different texts."
        )
