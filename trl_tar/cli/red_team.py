"""`trl-tar red-team`: attacks a model of one's own with a suite, and writes the report."""

from pathlib import Path

from rich.console import Console

from ..adversaries.from_yaml import named_adversaries
from ..distributed.processes import rank
from ..red_teaming.runner import red_team
from ..report.recovery import CHANCE
from ..report.report import Report
from ..tasks.from_yaml import benign_of, data_and_metrics, question_entities_of, read_description
from ..views.card import model_card
from ..views.page import write_pages


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
    described = read_description(datasets)
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
    Console().print(f"{report.verdict.word}: {len(report.attacks)} attacks, report in [bold]{output}[/]")
    return report
