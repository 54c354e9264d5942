"""The ablation of the knowledge recipe: named variants, trained and attacked alike."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ..pipeline.console import quiet
from ..pipeline.knowledge import random_mapping
from ..pipeline.knowledge_world import demo_suite
from ..pipeline.run_folder import LOG, hold
from ..pipeline.steps import attack, harden, reference_of
from ..report.report import Report
from ..tasks.built_in import world_task
from .ablation_report import report_on
from .ablation_variants import PHASE_1, RECIPE, VARIANTS, Settings, differences, settings_of
from .at_once import run_at_once
from .settings_log import note
from .table import Row


WHAT_IT_IS = "A Llama of 0.2 M parameters of a knowledge world, as the ablation trains and attacks it"


@dataclass(frozen=True)
class Training:
    """Names one training of the ablation.

    Args:
        output (`Path`):
            Folder of the ablation.
        world (`int`), seed (`int`):
            Seeds of the world and of the training.
        variant (`str`):
            Name of the variant.
    """

    output: Path
    world: int
    seed: int
    variant: str

    @property
    def folder(self) -> Path:
        """The folder of the model, its report and its card."""
        return self.output / f"world-{self.world}" / f"{self.variant}-seed-{self.seed}"

    @property
    def phase_1(self) -> str:
        """The name of the phase 1 that the variants of one seed share."""
        return f"{PHASE_1}-seed-{self.seed}"

    def settings(self, workers: int = 1) -> Settings:
        """Returns what decides the training."""
        return settings_of(VARIANTS[self.variant], self.world, self.folder.parent, self.seed, workers)

    def noted(self, settings: Settings) -> dict[str, str | int]:
        """Returns what the log of settings calls it."""
        job: dict[str, str | int] = {"variant": self.variant, "world": self.world, "seed": self.seed}
        return {**job, "settings_sha256": settings.sha256}


def ablation(
    worlds: Sequence[int] = (401, 402),
    seeds: Sequence[int] = (0,),
    output: Path = Path("ablation"),
    workers: int = 2,
    only: Sequence[str] | None = None,
    only_report: bool = False,
) -> list[Row]:
    """Trains and attacks the variants, and writes table, figures and log again after each few; whatever is finished in `output`
    is not repeated.

    Args:
        worlds (`Sequence[int]`, *optional*, defaults to `(401, 402)`):
            Seeds of the worlds. Nothing was tuned on the default ones.
        seeds (`Sequence[int]`, *optional*, defaults to `(0,)`):
            Seeds of the trainings on each.
        output (`Path`, *optional*, defaults to `Path("ablation")`):
            Folder of models, attacks and reports (in `world-W`), `ablation.json`, `table.md`, `settings.jsonl` and `figures`.
        workers (`int`, *optional*, defaults to `2`):
            Trainings, or attacks, that run at the same time.
        only (`Sequence[str]`, *optional*):
            Names of the variants to train and attack; all by default.
        only_report (`bool`, *optional*, defaults to `False`):
            Train and attack nothing: table and figures of what is finished, also while another run goes on.

    Returns:
        `list[dict]`: the rows of the table, one for each model with a report in `output`.

    Raises:
        `ValueError`: for a name that is no variant, and where `only_report` finds no report.
    """
    quiet()
    console = Console()
    if only_report:
        return report_on(output, console)
    names = chosen(only)
    hold(output)
    trainings = [Training(output, *job) for job in itertools.product(worlds, seeds, names)]
    for start in range(0, len(trainings), workers):
        together = trainings[start : start + workers]
        for training in together:
            prepare(training)
        for training in run_at_once(train, {training: (training,) for training in together}, workers):
            console.print(f"trained {training.folder}")
        for training in together:
            attack_trained(training, workers)
        rows = report_on(output, console if start + workers >= len(trainings) else None)
    return rows


def chosen(only: Sequence[str] | None) -> list[str]:
    """Returns the names of the variants to train, in the table's order; raises `ValueError` for one that is none."""
    unknown = [name for name in only or () if name not in VARIANTS]
    if unknown:
        raise ValueError(f"There is no variant {unknown[0]!r}. Use {', '.join(map(repr, VARIANTS))}.")
    return [name for name in VARIANTS if only is None or name in only]


def prepare(training: Training) -> None:
    """Trains what several processes would train at the same time: the world's models, and phase 1."""
    task, settings = world_task(training.world), training.settings()
    if PHASE_1 in settings.args.phases:
        random_mapping(task, settings.args, settings.tar, training.phase_1)


def train(training: Training) -> None:
    """Trains one model of the ablation, unless it is there, and notes in the log that it was started, and that it ended."""
    quiet()
    settings, task, output = training.settings(), world_task(training.world), training.output
    noted, begins = training.noted(settings), not (training.folder / LOG).is_file()
    if begins:
        recipe = Training(output, training.world, training.seed, RECIPE.name).settings()
        note(output, event="started", **noted, passes=round(settings.passes), changes=differences(settings, recipe))
    start: str | Path = task.model
    folders = [training.folder]
    if PHASE_1 in settings.args.phases:
        start = random_mapping(task, settings.args, settings.tar, training.phase_1)
        folders = [start, training.folder]
    reference = reference_of(task, settings.args, start)
    name = training.folder.name
    harden(task.started_from(reference), settings.tar, settings.adversaries, start, name, reference)
    if begins:
        note(output, event="finished", **noted, minutes=sum(map(minutes_of, folders)))


def minutes_of(folder: Path) -> float:
    """Returns the minutes from the start of a phase, or from its last resumption, to its end."""
    log = json.loads((folder / LOG).read_text(encoding="utf-8"))
    return next(entry["train_runtime"] for entry in reversed(log) if "train_runtime" in entry) / 60


def attack_trained(training: Training, workers: int) -> Report:
    """Attacks one model of the ablation, its twin, the base and the floor with the demo's suite, and measures the benign task; a
    job that another variant needs too is done once."""
    settings, task, folder = training.settings(workers), world_task(training.world), training.folder
    twin: str | Path = task.model
    trained = [folder]
    if PHASE_1 in settings.args.phases:
        twin = folder.parent / training.phase_1
        trained = [folder.parent / training.phase_1, folder]
    words = VARIANTS[training.variant].words
    return attack(
        task.started_from(reference_of(task, settings.args, twin)),
        settings.args,
        settings.tar,
        settings.adversaries,
        demo_suite(training.world),
        {"base": task.model, "twin": twin},
        trained,
        f"Knowledge world {training.world}, {words}, seed {training.seed}",
        f"{WHAT_IT_IS}: {words}.",
    )
