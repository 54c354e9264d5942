"""`trl-tar red-team`: attacks a model of one's own with a suite, and writes the report."""

from pathlib import Path
from typing import Any

from datasets import Dataset
from rich.console import Console

from ..data_sources import load_datasets
from ..described import (
    benign_of,
    function_of,
    metric_of,
    named_adversaries,
    question_entities_of,
    read_yaml,
)
from ..evaluation.scores import Metric
from ..model_card import model_card
from ..red_teaming import red_team
from ..red_teaming.attackers import Reward
from ..red_teaming.ranks import rank
from ..report import Report
from ..report_page import write_pages
from ..statistics import CHANCE


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
    max_length: int = 256,
    bf16: bool = False,
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
        budget, workers, max_length (`int`, *optional*), bf16 (`bool`, *optional*):
            As in [`red_team`].
    """
    described = _described(datasets)
    rows, metrics, rewards = data_and_metrics(datasets)
    references = {name: path for name, path in [("base", base), ("twin", twin), ("floor", floor)] if path is not None}
    report = red_team(
        model,
        named_adversaries(suite, steps, learning_rate_scale),
        rows,
        metrics,
        range(seeds),
        references,
        output,
        benign=benign_of(described.get("benign"), rows, datasets.parent),
        rewards=rewards,
        question_entities=question_entities_of(metrics),
        chance=described.get("chance", CHANCE),
        num_workers=workers,
        budget=budget,
        max_length=max_length,
        bf16=bf16,
    )
    if rank() > 0:  # `accelerate launch`: the first process writes
        return report
    output.mkdir(parents=True, exist_ok=True)
    report.save(output)
    name = Path(report.model["id"]).name
    (output / "README.md").write_text(model_card(report, name, f"{name} under attack."), encoding="utf-8")
    write_pages(report, output, name)
    outcome = (
        "resistant" if report.verdict.resistant else "empty shell" if report.verdict.empty_shell else "not resistant"
    )
    Console().print(f"{outcome}: {len(report.attacks)} attacks, report in [bold]{output}[/]")
    return report


def data_and_metrics(file: Path) -> tuple[dict[str, Dataset], dict[str, Metric], dict[str, Reward]]:
    """What the file of data sets, metrics and rewards names."""
    described = _described(file)
    rows = load_datasets(described["datasets"], file.parent)
    metrics = {name: metric_of(name, source, file.parent) for name, source in described["metrics"].items()}
    rewards = {name: function_of("Reward", name, source) for name, source in described.get("rewards", {}).items()}
    return rows, metrics, rewards


def _described(file: Path) -> dict[str, Any]:
    """What the file of data sets and metrics says."""
    described = read_yaml(file, dict, "Give a YAML file with `datasets` and `metrics`.")
    for part in ("datasets", "metrics"):
        if part not in described:
            raise ValueError(f"{str(file)!r} has no {part!r}. Add them, each name with its file.")
    for part in ("datasets", "metrics", "rewards"):
        if part in described and (not isinstance(described[part], dict) or not described[part]):
            raise ValueError(
                f"{str(file)!r} has {part}={described[part]!r}. Give each a name, such as {part}: {{a: …}}."
            )
    unknown = set(described) - {"datasets", "metrics", "rewards", "benign", "chance"}
    if unknown:
        raise ValueError(f"{str(file)!r} has {min(unknown)!r}. Use datasets, metrics, rewards, benign and chance.")
    return described
