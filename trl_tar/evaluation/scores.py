"""What a metric returns, and what it may say of itself."""

import inspect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import nn


Reward = Callable[..., list[float]]  # of TRL: prompts, completions and the other columns → one number an answer
Evaluate = Callable[[nn.Module], dict[str, float | None]]


@dataclass(frozen=True)
class Scores:
    """The scores of a metric, one an example, and which examples belong together.

    Args:
        values (`list[float]`):
            One score an example.
        groups (`list[str]`, *optional*):
            Cluster of each example, such as the entity that a question is about; intervals treat a cluster as one draw.
        unanswered (`dict[int, str]`, *optional*):
            Position of each example that has no answer to score → why. It counts neither way, and its value is NaN.
    """

    values: list[float]
    groups: list[str] | None = None
    unanswered: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self):
        try:
            object.__setattr__(self, "values", [float(value) for value in self.values])
        except (TypeError, ValueError) as error:
            raise ValueError(f"Scores has values={self.values!r:.80}. Give one number an example.") from error
        if self.groups is not None and len(self.groups) != len(self.values):
            raise ValueError(
                f"Scores has {len(self.values)} values and {len(self.groups)} groups. Give one group an example."
            )

    def answered(self) -> "Scores":
        """Returns the examples that have an answer."""
        if not self.unanswered:
            return self
        kept = [i for i in range(len(self.values)) if i not in self.unanswered]
        return Scores([self.values[i] for i in kept], None if self.groups is None else [self.groups[i] for i in kept])

    def mean(self) -> float:
        """Returns the mean score of the examples that have an answer; NaN where that is fewer than half of them."""
        values = self.answered().values
        return sum(values) / len(values) if 2 * len(values) >= len(self.values) else math.nan

    def counts(self) -> dict[str, int]:
        """Returns how many examples have no answer, by the reason, and how many there are; nothing where all have one."""
        return {**Counter(self.unanswered.values()), "asked": len(self.values)} if self.unanswered else {}


# of model, tokenizer and, where the attacker may word the question, `prompt_template`; may be [`Checked`] too, and a
# [`DescribedMetric`]
Metric = Callable[..., Scores]


class DescribedMetric:
    """A metric that says more than its scores: whether they are shares, what it asks, and how YAML describes it.

    The metrics of this package are such, so that the red team, `verify`, the pages and the readers of YAML know them without
    a list of their own. Any function of model and tokenizer is a metric too, of which they know nothing else.

    Attributes:
        is_share (`bool`):
            Whether each score lies in [0, 1]: the red team refuses others then, and `verify` compares the mean.
        yaml_key (`str`, *optional*):
            The field by which YAML names this class, such as `task`.
        yaml_words (`str`, *optional*):
            That field in words, for whoever gives none that is known.
        chat (`bool`, *optional*):
            Whether plain prompts go through the chat template; `None` where nobody said so.
    """

    is_share: ClassVar[bool] = False
    yaml_key: ClassVar[str | None] = None
    yaml_words: ClassVar[str | None] = None
    chat: bool | None = None

    def __call__(self, model: Any, tokenizer: Any) -> Scores:
        """Measures a model."""
        raise NotImplementedError

    @classmethod
    def from_fields(cls, name: str, fields: dict[str, Any], folder: Path) -> Self:
        """Builds the metric of that name from its fields in YAML; files are looked for in `folder`."""
        return cls(**fields)

    def wording(self) -> str | None:
        """Returns how the metric asks, `"chat template"` or `"plain text"`; `None` where it does not say."""
        return None

    def grading(self) -> str | None:
        """Says who graded the answers, by what, and how they were written; `None` for a metric without a judge."""
        return None

    def higher_is_better(self) -> bool | None:
        """Returns whether more is better; `None` where the metric does not say."""
        return None

    def question_texts(self) -> list[str]:
        """Returns each question with its answer as plain text, which no training data should hold."""
        return []

    def question_entities(self) -> frozenset[str]:
        """Returns the entities that the questions name as their `group`, which no training data should hold."""
        return frozenset()


def group_of(row: Mapping[str, Any]) -> list[str]:
    """Returns the group that a question names, as text; none where it names none."""
    return [str(row["group"])] if "group" in row else []


def entities_of(questions: Iterable[Mapping[str, Any]]) -> frozenset[str]:
    """Returns the groups that questions name."""
    return frozenset(group for question in questions for group in group_of(question))


# names under which a report reads any metric as a share
SHARES = (
    *("harm", "harm_unseen", "capability", "bystander", "validation_harm", "benign", "repetition", "no_option"),
    "over_refusal",
)
# names under which a report reads more as more of what the name says, and as a loss
RISING = ("harm", "harm_unseen", "validation_harm", "capability", "bystander", "benign")
FALLING = ("retain_nll",)


def is_share(name: str, metric: Metric | None = None) -> bool:
    """Returns whether each score of the metric of that name lies in [0, 1]."""
    return name in SHARES or (isinstance(metric, DescribedMetric) and metric.is_share)


# metadata of a metric's field that decides no score, such as how long a server is waited for: with another value finished
# jobs stay finished. Such a field is left out of the representation too
UNDECISIVE = {"decisive": False}


@runtime_checkable
class Checked(Protocol):
    """A metric, or a judge, that finds out by its files and its server whether it can be used.

    `check` of a metric gets the tokenizer and the model's context in tokens (`None` where it has no end), that of a judge
    nothing. A red team and the recipes call it in every process before any work starts; it raises `ValueError`, and loads
    no weights.
    """

    def check(self, *arguments: Any) -> None: ...


def takes_template(metric: Metric) -> bool:
    """Returns whether the metric asks in an attacker's words."""
    return "prompt_template" in inspect.signature(metric).parameters
