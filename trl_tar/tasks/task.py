"""What a recipe works on: a model with data sets and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from ..evaluation.scores import Metric
from .benign import BenignTask


@dataclass(frozen=True)
class Task:
    """What a recipe works on.

    Args:
        model (`Path` or `str`):
            The model to harden.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        datasets (`dict[str, Dataset]`):
            Of all phases and of the red team.
        metrics, zero_step_attacks (`dict[str, Callable]`):
            As in [`red_team`].
        references (`dict[str, Path]`):
            Such as a floor; base and twin are added.
        question_entities (`set[str]`), benign ([`BenignTask`], *optional*):
            As in [`red_team`].
        built_in (`dict`, *optional*):
            `kind` and `world` of a task that comes with the package, from which anybody can build it again.
        description, base_model, license (`str`, *optional*):
            For the card: what the task is, and Hub id and licence of the model.
    """

    model: str | Path
    tokenizer: PreTrainedTokenizerBase
    datasets: Mapping[str, Dataset]
    metrics: Mapping[str, Metric]
    zero_step_attacks: Mapping[str, Metric] = field(default_factory=dict)
    references: Mapping[str, Path] = field(default_factory=dict)
    question_entities: frozenset[str] = frozenset()
    benign: BenignTask | None = None
    built_in: Mapping[str, str] | None = None
    description: str | None = None
    base_model: str | None = None
    license: str | None = None


def kept(task: Task) -> dict[str, Dataset]:
    """`retain`, and beside it `general` where there is one."""
    return {name: task.datasets[name] for name in ("retain", "general") if name in task.datasets}


def d_retain(task: Task) -> Dataset:
    """D_retain: both together."""
    return concatenate_datasets(list(kept(task).values()))
