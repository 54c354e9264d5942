"""A model with the data sets and metrics that it is trained, attacked and measured with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase

from ..evaluation.scores import Metric, Reward
from .benign import BenignTask


@dataclass(frozen=True)
class Task:
    """A model with the data sets and metrics that it is trained, attacked and measured with.

    Args:
        model (`Path` or `str`):
            Folder or Hub id of the model before any safeguard.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            The model's tokenizer.
        datasets (`dict[str, Dataset]`):
            Name → rows, for all phases and for the red team.
        metrics, zero_step_attacks, rewards (`dict[str, Callable]`):
            As in [`red_team`].
        references (`dict[str, Path]`):
            Models that are attacked for comparison, such as a `floor`; whoever attacks adds `base` and `twin`.
        question_entities (`set[str]`), benign ([`BenignTask`], *optional*):
            As in [`red_team`].
        covered_entities (`set[str]`, *optional*):
            Those of `question_entities` that the data of the defender may hold, as `harm` asks about what he was told to hide.
            Data of attackers, simulated ones too, may hold none of either.
        general_text (`Callable`, *optional*):
            Folder of a model → the data set `general`, which that model answers itself. See [`Task.started_from`].
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
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    references: Mapping[str, Path] = field(default_factory=dict)
    question_entities: frozenset[str] = frozenset()
    covered_entities: frozenset[str] = frozenset()
    benign: BenignTask | None = None
    general_text: Callable[[str | Path], Dataset] | None = None
    built_in: Mapping[str, str] | None = None
    description: str | None = None
    base_model: str | None = None
    license: str | None = None

    def started_from(self, twin: str | Path) -> "Task":
        """Returns the task with the answers of `twin`, the model that phase 2 starts from, as its `general`.

        A task without `general_text` stays as it is."""
        if self.general_text is None:
            return self
        return replace(self, datasets={**self.datasets, "general": self.general_text(twin)})


KEPT = ("retain", "general", "self_written")  # data sets of D_retain, in the order of their rows


def kept(task: Task) -> dict[str, Dataset]:
    """Returns `retain` and, if the task has them, `general` and `self_written`, each under its name."""
    return {name: task.datasets[name] for name in KEPT if name in task.datasets}


def d_retain(task: Task) -> Dataset:
    """Returns D_retain: the rows of `retain`, followed by those of `general` and `self_written`."""
    return concatenate_datasets(list(kept(task).values()))
