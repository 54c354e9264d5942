"""What a recipe works on: a model with data sets and metrics."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from .data_sources import load_datasets
from .described import benign_of, metric_of, question_entities_of
from .evaluation.scores import Metric
from .recipe_arguments import RecipeArguments
from .red_teaming import BenignTask
from .red_teaming.checks import check_models


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

    @classmethod
    def described(cls, args: RecipeArguments, needed: tuple[str, ...], pad_token: str | None = None) -> "Task":
        """From model, `data`, `metrics` and `benign`; `ValueError` where one of the first three is missing, before anything is
        loaded.

        The groups that questions name are the entities that no data set may hold."""
        if args.model_name_or_path is None or not args.data:
            raise ValueError(
                "The recipe needs `model_name_or_path` and `data`, or `world`. Give them in its YAML file."
            )
        if args.attack_seeds and not args.metrics:
            raise ValueError("The recipe needs `metrics` for its red team. Give them, or attack_seeds: 0.")
        missing = [name for name in needed if name not in args.data]
        if missing:
            raise ValueError(
                f"`data` has {sorted(args.data)}, without {missing[0]!r}. Add the data set under that name."
            )
        check_models({"model": args.model_name_or_path})
        metrics = {name: metric_of(name, each, Path()) for name, each in (args.metrics or {}).items()}
        tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        if pad_token is not None:
            if pad_token not in tokenizer.get_vocab():
                raise ValueError(
                    f"`pad_token` is {pad_token!r}, which the tokenizer does not have. Name one of its tokens, and not the end "
                    "of text."
                )
            tokenizer.pad_token = pad_token
        datasets = load_datasets(args.data)
        return cls(
            args.model_name_or_path,
            tokenizer,
            datasets,
            metrics,
            question_entities=question_entities_of(metrics),
            benign=benign_of(args.benign, datasets, Path()),
        )


def kept(task: Task) -> dict[str, Dataset]:
    """`retain`, and beside it `general` where there is one."""
    return {name: task.datasets[name] for name in ("retain", "general") if name in task.datasets}


def d_retain(task: Task) -> Dataset:
    """D_retain: both together."""
    return concatenate_datasets(list(kept(task).values()))
