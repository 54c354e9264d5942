"""What YAML files and command lines describe: adversaries, metrics and functions by name."""

import importlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset

from .adversary import Adversary
from .adversary_checks import check_types
from .evaluation.completion_loss import CompletionLoss
from .evaluation.judged import Judged
from .evaluation.judges import Classifier, Endpoint, Judge, RefusalPhrases
from .evaluation.lm_eval import LMEvalTask
from .evaluation.multiple_choice import MultipleChoice
from .evaluation.scores import Metric
from .red_teaming import BenignTask, suites


SUITES = {
    "knowledge": suites.knowledge_suite,
    "refusal": suites.refusal_suite,
    "peft": suites.peft_suite,
    "benign": suites.benign_suite,
    "preference": suites.preference_suite,
    "weight-edit": suites.weight_edit_suite,
    "composed": suites.composed_suite,
    "jailbreak-tuning": suites.jailbreak_tuning_suite,
    "input": suites.input_suite,
}


def named_adversaries(suite: str, steps: int | None, learning_rate_scale: float | None) -> list[Adversary]:
    """The suite of that name, or the adversaries of a YAML or JSON file."""
    if suite in SUITES:
        known = inspect.signature(SUITES[suite]).parameters
        wanted = {"num_steps": steps, "learning_rate_scale": learning_rate_scale}
        given = {name: value for name, value in wanted.items() if value is not None}
        idle = next((name for name in given if name not in known), None)
        if idle is not None:
            raise ValueError(f"The suite {suite!r} has no {idle}, and {given[idle]} would do nothing. Leave it out.")
        return SUITES[suite](**given)
    if Path(suite).suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"There is no suite {suite!r}. Use {', '.join(SUITES)}, or a YAML file of adversaries.")
    if steps is not None or learning_rate_scale is not None:
        raise ValueError(f"The suite {suite!r} says steps and learning rates itself. Leave the two options out.")
    rows = read_yaml(Path(suite), list, "Give a YAML file with a list of adversaries.")
    return adversaries_of(rows)


def adversaries_of(rows: list[Any]) -> list[Adversary]:
    """From the fields of each, as YAML has them."""
    return [_adversary(i, row) for i, row in enumerate(rows)]


def _adversary(i: int, row: Any) -> Adversary:
    try:
        return Adversary(**row)
    except TypeError as error:
        raise ValueError(f"Adversary {i} of the suite is {row!r}: {error}. Give the fields of Adversary.") from error


def read_yaml(file: Path, kind: type, remedy: str) -> Any:
    """What the YAML or JSON file holds; `ValueError` with the remedy where it is nothing of that kind."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{str(file)!r} cannot be read ({str(error).splitlines()[0]}). {remedy}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{str(file)!r} holds {type(content).__name__!r}. {remedy}")
    check_names(repr(str(file)), content)
    return content


def check_names(owner: str, content: Any) -> None:
    """Raises `ValueError` for a name, at any depth, that YAML read as a number or a truth value."""
    for key in _keys(content):
        if not isinstance(key, str):
            raise ValueError(f"{owner} has the name {key!r}, which YAML does not read as text. Write it in quotes.")


def _keys(content: Any) -> Iterator[Any]:
    """Of all mappings, at any depth."""
    if isinstance(content, dict):
        yield from content
    if isinstance(content, dict | list):
        for each in content.values() if isinstance(content, dict) else content:
            yield from _keys(each)


def metric_of(name: str, source: Any, folder: Path) -> Metric:
    """The metric that YAML describes, files being looked for in `folder`; `ValueError` for anything else.

    A file of questions for [`MultipleChoice`]; `module:function`; or fields: of [`LMEvalTask`] (`task`, …), of
    [`CompletionLoss`] (`completions`, a file, …), or of [`Judged`] (`requests`, a file, `judge`, …), whose judge is `phrases`,
    or the fields of [`Classifier`] (`path`, …) or of [`Endpoint`] (`url`, `model`, …).
    """
    if isinstance(source, str):
        return function_of("Metric", name, source) if ":" in source else MultipleChoice.from_file(folder / source)
    if not isinstance(source, Mapping) or not {"task", "requests", "completions"} & set(source):
        raise ValueError(
            f"Metric {name!r} is {source!r}. Give a file of questions, module:function, `task` for lm-eval, `requests` and "
            "`judge`, or `completions`, a file."
        )
    try:
        metric = _metric_of_fields(name, dict(source), folder)
    except TypeError as error:
        raise ValueError(f"Metric {name!r} is {source!r}: {error}. Give the fields of its class.") from error
    check_types(f"Metric {name!r}", metric)
    return metric


def question_entities_of(metrics: Mapping[str, Metric]) -> frozenset[str]:
    """The groups that questions and requests name; a metric of the user's own names none that are known here."""
    asked = [each.questions for each in metrics.values() if isinstance(each, MultipleChoice)]
    asked += [each.requests for each in metrics.values() if isinstance(each, Judged)]
    return frozenset(str(each["group"]) for rows in asked for each in rows if "group" in each)


def benign_of(described: Any, datasets: Mapping[str, Dataset], folder: Path) -> BenignTask | None:
    """The benign task that YAML describes: `dataset`, a name in `datasets`, `metric`, as for [`metric_of`], and other fields
    of [`BenignTask`]; `ValueError` for anything else."""
    if described is None:
        return None
    if not isinstance(described, dict) or described.get("dataset") not in list(datasets) or "metric" not in described:
        raise ValueError(f"`benign` is {described!r}. Name one of the datasets {sorted(datasets)} and a metric.")
    settings = {name: value for name, value in described.items() if name not in ("dataset", "metric")}
    try:
        return BenignTask(datasets[described["dataset"]], metric_of("benign", described["metric"], folder), **settings)
    except TypeError as error:
        raise ValueError(f"`benign` has {sorted(settings)}: {error}. Give the fields of BenignTask.") from error


def _metric_of_fields(name: str, fields: dict[str, Any], folder: Path) -> LMEvalTask | Judged | CompletionLoss:
    if "task" in fields:
        return LMEvalTask(**fields)
    if "completions" in fields:
        return CompletionLoss.from_file(folder / str(fields.pop("completions")), **fields)
    judge = _judge(name, fields.pop("judge", None))
    return Judged.from_file(folder / str(fields.pop("requests")), judge, **fields)


def _judge(name: str, described: Any) -> Judge:
    if described == "phrases":
        return RefusalPhrases()
    if isinstance(described, Mapping) and "path" in described:
        return Classifier(**described)
    if isinstance(described, Mapping) and "url" in described:
        return Endpoint(**described)
    raise ValueError(
        f"Metric {name!r} has the judge {described!r}. Give 'phrases', path and label of a classifier, or url and model of "
        "an OpenAI-compatible endpoint."
    )


def function_of(kind: str, name: str, source: Any) -> Any:
    """`module:function`, importable from the current folder; `ValueError` where it is not."""
    source = str(source)
    if ":" not in source:
        raise ValueError(f"{kind} {name!r} is {source!r}. Give module:function, importable from here.")
    module, function = source.rsplit(":", 1)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two for no name of a module
        raise ValueError(
            f"{kind} {name!r} is {source!r} ({error}). Give module:function, importable from here."
        ) from error
    if not callable(found):
        raise ValueError(f"{kind} {name!r} is {source!r}, which is {type(found).__name__!r}. Give module:function.")
    return found
