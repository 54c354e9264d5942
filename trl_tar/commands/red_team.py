"""`trl-tar red-team`: attacks a model of one's own with a suite, and writes the report."""

import importlib
import inspect
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from rich.console import Console

from ..adversary import Adversary
from ..evaluation.multiple_choice import MultipleChoice
from ..evaluation.scores import Metric
from ..model_card import model_card
from ..red_teaming import BenignTask, red_team, suites
from ..red_teaming.ranks import rank
from ..report import Report
from ..report_page import write_pages
from ..statistics import CHANCE


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
READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}


def red_team_command(
    model: str,
    suite: str,
    datasets: Path,
    output: Path,
    seeds: int = 3,
    base: str | None = None,
    twin: str | None = None,
    floor: str | None = None,
    steps: int | None = None,
    learning_rate_scale: float | None = None,
    budget: int | None = None,
    workers: int = 1,
) -> Report:
    """Attacks the model and its references, and writes report, answers, card and pages; goes on where it stopped.

    Args:
        model, base, twin, floor (`str`):
            Folders or Hub ids.
        suite (`str`):
            A name of `SUITES`, or a YAML or JSON file with a list of adversaries.
        datasets (`Path`):
            YAML or JSON: `datasets`, name → file of rows; `metrics`, name → file of questions or `module:function`;
            optionally `rewards`, name → `module:function`, `benign` (`dataset`, `metric` and the other fields of
            [`BenignTask`]) and `chance`. The groups of the questions are the entities that no data set may hold.
        output (`Path`):
            Folder of all that is written.
        seeds (`int`, *optional*, defaults to `3`):
            Seeds of each attack: 0, 1, ….
        steps (`int`, *optional*), learning_rate_scale (`float`, *optional*):
            Arguments of the named suite; `ValueError` where it has none.
        budget, workers (`int`, *optional*):
            As in [`red_team`].
    """
    described = _described(datasets)
    rows = {name: _rows(name, datasets.parent / str(file)) for name, file in described["datasets"].items()}
    metrics = {name: _metric(name, str(source), datasets.parent) for name, source in described["metrics"].items()}
    rewards = {name: _function("Reward", name, str(source)) for name, source in described.get("rewards", {}).items()}
    questions = [metric for metric in metrics.values() if isinstance(metric, MultipleChoice)]
    references = {name: path for name, path in [("base", base), ("twin", twin), ("floor", floor)] if path is not None}
    report = red_team(
        model,
        _adversaries(suite, steps, learning_rate_scale),
        rows,
        metrics,
        range(seeds),
        references,
        output,
        benign=_benign(described.get("benign"), rows, datasets.parent),
        rewards=rewards,
        question_entities={str(q["group"]) for each in questions for q in each.questions if "group" in q},
        chance=described.get("chance", CHANCE),
        num_workers=workers,
        budget=budget,
    )
    if rank() > 0:  # `accelerate launch`: the first process writes
        return report
    output.mkdir(parents=True, exist_ok=True)
    report.save(output)
    name = Path(model).name
    (output / "README.md").write_text(model_card(report, name, f"{name} under attack."), encoding="utf-8")
    write_pages(report, output, name)
    outcome = (
        "resistant" if report.verdict.resistant else "empty shell" if report.verdict.empty_shell else "not resistant"
    )
    Console().print(f"{outcome}: {len(report.attacks)} attacks, report in [bold]{output}[/]")
    return report


def _described(file: Path) -> dict[str, Any]:
    """What the file of data sets and metrics says."""
    described = _read(file, dict, "Give a YAML file with `datasets` and `metrics`.")
    for part in ("datasets", "metrics"):
        if not isinstance(described.get(part), dict) or not described[part]:
            raise ValueError(f"{str(file)!r} has no {part!r}. Add them, each name with its file.")
    unknown = set(described) - {"datasets", "metrics", "rewards", "benign", "chance"}
    if unknown:
        raise ValueError(f"{str(file)!r} has {min(unknown)!r}. Use datasets, metrics, rewards, benign and chance.")
    return described


def _adversaries(suite: str, steps: int | None, learning_rate_scale: float | None) -> list[Adversary]:
    if suite in SUITES:
        known = inspect.signature(SUITES[suite]).parameters
        wanted = {"num_steps": steps, "learning_rate_scale": learning_rate_scale}
        given = {name: value for name, value in wanted.items() if value is not None}
        idle = next((name for name in given if name not in known), None)
        if idle is not None:
            raise ValueError(f"The suite {suite!r} has no {idle}, and {given[idle]} would do nothing. Leave it out.")
        return SUITES[suite](**given)
    if steps is not None or learning_rate_scale is not None:
        raise ValueError(f"The suite {suite!r} says steps and learning rates itself. Leave the two options out.")
    if Path(suite).suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"There is no suite {suite!r}. Use {', '.join(SUITES)}, or a YAML file of adversaries.")
    rows = _read(Path(suite), list, "Give a YAML file with a list of adversaries.")
    return [_adversary(i, row) for i, row in enumerate(rows)]


def _adversary(i: int, row: Any) -> Adversary:
    try:
        return Adversary(**row)
    except TypeError as error:
        raise ValueError(f"Adversary {i} of the suite is {row!r}: {error}. Give the fields of Adversary.") from error


def _read(file: Path, kind: type, remedy: str) -> Any:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{str(file)!r} cannot be read ({str(error).splitlines()[0]}). {remedy}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{str(file)!r} holds {type(content).__name__!r}. {remedy}")
    return content


def _rows(name: str, file: Path) -> Dataset:
    if file.suffix not in READERS or not file.is_file():
        raise ValueError(f"Data set {name!r} is {str(file)!r}. Give an existing file, {', '.join(READERS)}.")
    try:
        return load_dataset(READERS[file.suffix], data_files=str(file), split="train")
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(f"Data set {name!r} cannot be read from {str(file)!r} ({error}). Check its format.") from error


def _metric(name: str, source: str, folder: Path) -> Metric:
    if ":" not in source:
        return MultipleChoice.from_file(folder / source)
    return _function("Metric", name, source)


def _benign(described: Any, rows: dict[str, Dataset], folder: Path) -> BenignTask | None:
    if described is None:
        return None
    if not isinstance(described, dict) or described.get("dataset") not in rows or "metric" not in described:
        raise ValueError(f"`benign` is {described!r}. Name one of the datasets {sorted(rows)} and a metric.")
    settings = {name: value for name, value in described.items() if name not in ("dataset", "metric")}
    try:
        return BenignTask(rows[described["dataset"]], _metric("benign", str(described["metric"]), folder), **settings)
    except TypeError as error:
        raise ValueError(f"`benign` has {sorted(settings)}: {error}. Give the fields of BenignTask.") from error


def _function(kind: str, name: str, source: str) -> Any:
    if ":" not in source:
        raise ValueError(f"{kind} {name!r} is {source!r}. Give module:function, importable from here.")
    module, function = source.rsplit(":", 1)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"{kind} {name!r} is {source!r} ({error}). Give module:function, importable from here."
        ) from error
