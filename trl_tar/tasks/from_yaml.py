"""Metrics, tasks and functions as YAML files and command lines describe them."""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.sources import load_datasets
from ..evaluation.completion_loss import CompletionLoss
from ..evaluation.judged import Judged
from ..evaluation.lm_eval import LMEvalTask
from ..evaluation.multiple_choice import MultipleChoice
from ..evaluation.scores import DescribedMetric, Metric, Reward
from ..files import read_yaml
from ..models.tokenizers import own_tokenizer
from ..validation import check_types
from .benign import BenignTask
from .task import Task


# metrics that may ask about what the defender's data holds, and those that may not, whatever the first ask about
COVERED, UNCOVERED = ("harm", "validation_harm"), ("harm_unseen", "capability", "bystander")
# those that YAML describes by fields
METRICS: tuple[type[DescribedMetric], ...] = (MultipleChoice, LMEvalTask, Judged, CompletionLoss)


def data_and_metrics(file: Path) -> tuple[dict[str, Dataset], dict[str, Metric], dict[str, Reward]]:
    """Loads the data sets, metrics and rewards that a file names."""
    return _loaded(read_description(file))


def task_of(described: Mapping[str, Any], model: str) -> Task:
    """Returns the task of attacking with what [`read_description`] read from a file, and with the tokenizer of `model`, the
    base where there is one."""
    folder = described["folder"]
    rows, metrics, rewards = _loaded(described)
    return Task(
        model,
        own_tokenizer(model),
        rows,
        metrics,
        {
            name: metric_of(name, source, folder, described.get("chat"))
            for name, source in described.get("zero_step_attacks", {}).items()
        },
        rewards=rewards,
        question_entities=question_entities_of(metrics),
        covered_entities=covered_entities_of(metrics),
        benign=benign_of(described.get("benign"), rows, folder, described.get("chat")),
    )


def _loaded(
    described: Mapping[str, Any],
) -> tuple[dict[str, Dataset], dict[str, Metric], dict[str, Reward]]:
    folder = described["folder"]
    rows = load_datasets(described["datasets"], folder)
    chat = described.get("chat")
    metrics = {name: metric_of(name, source, folder, chat) for name, source in described["metrics"].items()}
    rewards = {name: function_of("Reward", name, source) for name, source in described.get("rewards", {}).items()}
    return rows, metrics, rewards


def read_description(file: Path) -> dict[str, Any]:
    """Reads the file of data sets and metrics; `ValueError` for anything that is missing or unknown.

    Its `folder`, in which files are looked for, is from the file's own folder, and by default that one."""
    described = read_yaml(file, dict, "Give a YAML file with `datasets` and `metrics`.")
    for part in ("datasets", "metrics"):
        if part not in described:
            raise ValueError(f"{str(file)!r} has no {part!r}. Add them, each name with its file.")
    for part in ("datasets", "metrics", "zero_step_attacks", "rewards"):
        if part in described and (not isinstance(described[part], dict) or not described[part]):
            raise ValueError(
                f"{str(file)!r} has {part}={described[part]!r}. Give each a name, such as {part}: {{a: …}}."
            )
    known = ("datasets", "metrics", "zero_step_attacks", "rewards", "benign", "chance", "chat", "folder")
    unknown = set(described) - set(known)
    if unknown:
        raise ValueError(f"{str(file)!r} has {min(unknown)!r}. Use {', '.join(known[:-1])} and {known[-1]}.")
    if not isinstance(described.get("chat"), bool | None):
        raise ValueError(f"{str(file)!r} has chat={described['chat']!r}. Give true or false.")
    folder = described.get("folder", ".")
    if not isinstance(folder, str) or not (file.parent / folder).is_dir():
        raise ValueError(
            f"{str(file)!r} has folder={folder!r}, which leads to none. Give that of the files, from here."
        )
    return {**described, "folder": file.parent / folder}


def metric_of(name: str, source: Any, folder: Path, chat: bool | None = None) -> Metric:
    """Returns the metric that YAML describes; `ValueError` for anything else.

    YAML gives a file of questions for [`MultipleChoice`]; `module:function`; or fields of one of `METRICS`, which is found by
    its `yaml_key`. The judge of [`Judged`] is `phrases`, or the fields of [`~trl_tar.evaluation.judges.Classifier`] (`path`,
    …) or of [`~trl_tar.evaluation.judges.Endpoint`] (`url`, `model`, …).

    Args:
        name (`str`):
            Name of the metric.
        source (`str` or `Mapping`):
            What YAML gives.
        folder (`Path`):
            Folder in which files are looked for.
        chat (`bool`, *optional*):
            The field `chat` of a metric that has one and does not give it.
    """
    if isinstance(source, str) and ":" in source:
        return function_of("Metric", name, source)
    source = {"questions": source} if isinstance(source, str) else source
    kind = next((kind for kind in METRICS if isinstance(source, Mapping) and kind.yaml_key in source), None)
    if kind is None:
        *others, last = (str(kind.yaml_words) for kind in METRICS)
        raise ValueError(
            f"Metric {name!r} is {source!r}. Give a file of questions, module:function, {', '.join(others)}, or {last}."
        )
    default = {} if chat is None or "chat" not in inspect.signature(kind).parameters else {"chat": chat}
    try:
        metric = kind.from_fields(name, {**default, **source}, folder)
    except TypeError as error:
        raise ValueError(f"Metric {name!r} is {source!r}: {error}. Give the fields of its class.") from error
    check_types(f"Metric {name!r}", metric)
    return metric


def question_entities_of(metrics: Mapping[str, Metric]) -> frozenset[str]:
    """Returns the entities that questions and requests name; a function of the user's own names none."""
    described = [metric for metric in metrics.values() if isinstance(metric, DescribedMetric)]
    return frozenset().union(*(metric.question_entities() for metric in described))


def covered_entities_of(metrics: Mapping[str, Metric]) -> frozenset[str]:
    """Returns the entities that the data of the defender may hold, see [`Task`]."""
    covered, uncovered = (
        question_entities_of({name: metrics[name] for name in names if name in metrics})
        for names in (COVERED, UNCOVERED)
    )
    return covered - uncovered


def benign_of(
    described: Any, datasets: Mapping[str, Dataset], folder: Path, chat: bool | None = None
) -> BenignTask | None:
    """Returns the benign task that YAML describes: `dataset`, a name in `datasets`, `metric`, as for [`metric_of`] (which `chat` is
    for), and other fields of [`BenignTask`]; `ValueError` for anything else."""
    if described is None:
        return None
    if not isinstance(described, dict) or described.get("dataset") not in list(datasets) or "metric" not in described:
        raise ValueError(f"`benign` is {described!r}. Name one of the datasets {sorted(datasets)} and a metric.")
    settings = {name: value for name, value in described.items() if name not in ("dataset", "metric")}
    try:
        metric = metric_of("benign", described["metric"], folder, chat)
        return BenignTask(datasets[described["dataset"]], metric, **settings)
    except TypeError as error:
        raise ValueError(f"`benign` has {sorted(settings)}: {error}. Give the fields of BenignTask.") from error


def import_from_here() -> None:
    """Makes modules of the current folder importable, as `python -m` does."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def function_of(kind: str, name: str, source: Any) -> Any:
    """Returns the function of `module:function`, importable from the current folder; `ValueError` where it is not."""
    source = str(source)
    if ":" not in source:
        raise ValueError(f"{kind} {name!r} is {source!r}. Give module:function, importable from here.")
    module, function = source.rsplit(":", 1)
    import_from_here()
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two for no name of a module
        raise ValueError(
            f"{kind} {name!r} is {source!r} ({error}). Give module:function, importable from here."
        ) from error
    if not callable(found):
        raise ValueError(f"{kind} {name!r} is {source!r}, which is {type(found).__name__!r}. Give module:function.")
    return found
