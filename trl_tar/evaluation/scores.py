"""What a metric returns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


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

    def mean(self) -> float:
        """Mean score."""
        return sum(self.values) / len(self.values)


Metric = Callable[["PreTrainedModel", "PreTrainedTokenizerBase"], Scores]
