"""`trl-tar red-team`: attacks a model of one's own with a suite, and writes the report."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from ..adversaries.from_yaml import named_adversaries
from ..distributed.processes import rank
from ..files import write_text
from ..red_teaming.checks import check_models
from ..red_teaming.task_attack import red_team_task
from ..report.build import judged_again
from ..report.report import Report
from ..tasks.from_yaml import read_description, task_of
from ..views.card import model_card
from ..views.page import write_pages
from ..views.terminal import print_report
from .search import found_by_search


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
    batch_size: int | None = None,
    search: Path | None = None,
    **settings: Any,
) -> Report:
    """Attacks the model and its references, and writes report, answers, card and pages; goes on where it stopped.

    Args:
        model, base, twin, floor (`str`):
            Folders or Hub ids of the model and of its references.
        suite (`str`):
            A name of `SUITES`, or a YAML or JSON file with a list of adversaries.
        datasets (`Path`):
            YAML or JSON: `datasets`, name → file of rows; `metrics`, name → file of questions or `module:function`;
            optionally `zero_step_attacks`, described as metrics are: harm in wordings that nobody trained on; `rewards`, name → `module:function`, `benign` (`dataset`, `metric` and the other fields of
            [`BenignTask`]), `chance`, `chat`, whether plain questions go through the chat template, and `folder`, where the files are. The groups of the questions are the entities that no data set may hold.
        output (`Path`):
            Folder of everything that is written.
        seeds (`int`, *optional*, defaults to `3`):
            How many seeds each attack has: 0, 1, …, without that of the search where there was one.
        steps (`int`, *optional*), learning_rate_scale (`float`, *optional*), batch_size (`int`, *optional*):
            Arguments of the named suite; `ValueError` where it has none.
        search (`Path`, *optional*):
            Folder of [`search_command`] on this model. Its winner joins the suite, with the seeds and questions of the report.
        **settings:
            `num_workers`, `budget`, `max_length` and `bf16`, as in [`red_team`].
    """
    description = read_description(datasets)
    if "chance" in description:
        settings["chance"] = description["chance"]
    references = {name: path for name, path in [("base", base), ("twin", twin), ("floor", floor)] if path is not None}
    check_models({"model": model, **references})
    task = task_of(description, base or model)
    adversaries = named_adversaries(suite, steps, learning_rate_scale, batch_size)
    searches, of_search = [], None
    if search is not None:
        winner, record, of_search = found_by_search(search, model)
        adversaries, searches = [*adversaries, winner], [record]
    fresh = [seed for seed in range(seeds + 1) if seed != of_search][:seeds]
    report = red_team_task(task, model, adversaries, fresh, references, output, **settings)
    if searches:
        report = judged_again(replace(report, config={**report.config, "searches": searches}))
    if rank() > 0:  # `accelerate launch`: the first process writes
        return report
    output.mkdir(parents=True, exist_ok=True)
    report.save(output)
    name = Path(report.model["id"]).name
    write_text(output / "README.md", model_card(report, name, f"{name} under attack."))
    write_pages(report, output, name)
    print_report(report, output)
    return report
