"""What a metric returns."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import nn


Reward = Callable[..., list[float]]  # of TRL: prompts, completions and the other columns → one number an answer
Evaluate = Callable[[nn.Module], dict[str, float | None]]


@dataclass(frozen=True)
class Scores:
    """One score an example, and which examples belong together.

    Args:
        values (`list[float]`):
            One score an example.
        groups (`list[str]`, *optional*):
            Cluster of each example, such as the entity that a question is about; intervals treat a cluster as one draw.
    """

    values: list[float]
    groups: list[str] | None = None

    def __post_init__(self):
        try:
            object.__setattr__(self, "values", [float(value) for value in self.values])
        except (TypeError, ValueError) as error:
            raise ValueError(f"Scores has values={self.values!r:.80}. Give one number an example.") from error
        if self.groups is not None and len(self.groups) != len(self.values):
            raise ValueError(
                f"Scores has {len(self.values)} values and {len(self.groups)} groups. Give one group an example."
            )

    def mean(self) -> float:
        """Mean score."""
        return sum(self.values) / len(self.values)


# of model, tokenizer and, where the attacker may word the question, `prompt_template`; may be [`Checked`] too
Metric = Callable[..., Scores]


# metadata of a field of a metric that decides no score, such as how long a server is waited for: with another value
# finished jobs stay finished. Leave it out of the representation too
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
    """Whether the metric asks in an attacker's words."""
    return "prompt_template" in inspect.signature(metric).parameters
