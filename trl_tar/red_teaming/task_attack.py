"""A red team on a task: the one place that says which of `red_team`'s arguments a task answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adversaries.adversary import Adversary
from ..models.companions import Companions
from ..report.report import Report
from ..tasks.task import Task
from .job import Settings
from .run_jobs import run_jobs
from .runner import red_team
from .targets import Model, Target


def red_team_task(
    task: Task,
    model: Model,
    adversaries: Sequence[Adversary],
    seeds: Iterable[int],
    references: Mapping[str, Model] | None = None,
    output_dir: str | Path | None = None,
    **settings: Any,
) -> Report:
    """Attacks a model and its references on a task.

    Args:
        task ([`Task`]):
            Data sets, metrics, benign task and tokenizer; its own references are attacked too.
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            The model under attack, such as the task's model after hardening.
        adversaries, seeds, references, output_dir:
            As in [`red_team`].
        **settings:
            `num_workers`, `budget`, `evaluation_steps`, `max_length`, `bf16` and `chance`, as in [`red_team`].

    Returns:
        [`Report`]: with statistics and verdict.

    Raises:
        `ValueError`: for arguments that cannot be attacked with, before any work starts.
    """
    return red_team(
        model,
        adversaries,
        task.datasets,
        task.metrics,
        seeds,
        {**task.references, **(references or {})},
        output_dir,
        processing_class=task.tokenizer,
        settings_from=task.model,
        zero_step_attacks=task.zero_step_attacks,
        benign=task.benign,
        rewards=task.rewards,
        question_entities=task.question_entities,
        **settings,
    )


def measure_task(
    task: Task,
    models: Mapping[str, str | Path],
    output_dir: str | Path,
    num_workers: int = 1,
    max_length: int = 256,
    bf16: bool = False,
) -> dict[str, dict[str, float | None]]:
    """Measures models by the task's metrics, with no attack. A red team on the task with the same settings and `output_dir` does
    not measure them again.

    Args:
        task ([`Task`]):
            Metrics, attacks without training and tokenizer.
        models (`dict[str, str]`):
            Name → folder or Hub id.
        output_dir, num_workers, max_length, bf16:
            As in [`red_team`].

    Returns:
        `dict[str, dict]`: name → every metric.
    """
    settings = Settings(task.tokenizer, dict(task.metrics), dict(task.zero_step_attacks or {}), None, max_length, bf16)
    ends = Companions.of(str(task.model), task.tokenizer).end_tokens(task.tokenizer)
    settings = replace(settings, end_tokens=ends)  # as the red team takes them from the task's model
    targets = [Target.of(model, Path(output_dir)) for model in models.values()]
    results = run_jobs([target.job() for target in targets], settings, Path(output_dir) / "jobs", num_workers, "harm")
    return {name: result["before"] for name, result in zip(models, results, strict=True)}
