"""`trl-tar demo`: a model is safeguarded, hardened and attacked, and a report says what came back."""

import json
import logging
import warnings
from pathlib import Path

import torch
from rich.console import Console

from ..adversary import Adversary
from ..red_teaming import BenignTask, red_team
from ..report import Report
from ..testbed import (
    KnowledgeWorld,
    benign_metric,
    knowledge_metrics,
    knowledge_model_path,
    knowledge_zero_step_attacks,
)
from ..testbed.pipeline import MIX, control_without_adversary, harden, safeguard


LABELS = {"base": "base", "random_mapping": "random mapping (twin)", "no_adversary": "K = 0 control", "tar": "TAR"}
SEEDS = (0, 1, 2)


def demo_suite() -> list[Adversary]:
    """The demo's attacks: forget only, a balanced mix, retain→forget, and LoRA on the mix."""
    common = {"num_steps": 200, "batch_size": 32, "learning_rate": 1e-3}
    return [
        Adversary("forget", "attacker", **common),
        Adversary("mix", mixture=red_team_mix(), **common),
        Adversary("retain-forget", "attacker", first_dataset="retain", switch_at=0.4, **common),
        Adversary("lora-8-mix", mixture=red_team_mix(), lora_r=8, **{**common, "learning_rate": 2e-3}),
    ]


def red_team_mix() -> dict[str, float]:
    """The balanced mix, with the attacker's own entities in place of those that training simulates."""
    return {"attacker": MIX["forget"], "retain": MIX["retain"]}


def demo(output: Path, seed: int = 0, world_seed: int = 0, workers: int = 2) -> dict[str, Report]:
    """Runs the demo; whatever is finished in `output` is not repeated.

    Args:
        output (`Path`):
            Folder for models, reports, figures and `comparison.json`.
        seed (`int`, *optional*, defaults to `0`):
            Seed of both training phases.
        world_seed (`int`, *optional*, defaults to `0`):
            The world; any but 0 first trains its own base and floor models.
        workers (`int`, *optional*, defaults to `2`):
            Attacks that run at the same time.

    Returns:
        `dict[str, Report]`: one report a model.
    """
    quiet()
    console = Console()
    world = KnowledgeWorld(world_seed)
    output.mkdir(parents=True, exist_ok=True)
    console.rule(f"Knowledge world {world_seed}")
    models = {"base": knowledge_model_path(world, "base")}
    floor = knowledge_model_path(world, "floor")
    console.print("[bold]1/4[/] random mapping: hide the hazardous domain")
    models["random_mapping"] = safeguard(world, models["base"], output / "random_mapping", seed)
    console.print("[bold]2/4[/] control: the tamper-resistance loss with no attack simulated (K = 0)")
    models["no_adversary"] = control_without_adversary(world, models["random_mapping"], output / "no_adversary", seed)
    console.print("[bold]3/4[/] TAR: each outer step simulates an attack")
    models["tar"] = harden(world, models["random_mapping"], output / "tar", seed)
    console.print("[bold]4/4[/] red team")
    reports = attack_all(world, models, floor, demo_suite(), output, SEEDS, workers)
    write_comparison(reports, output)
    write_figures(reports, output)
    console.print(comparison_table(reports))
    console.print(f"Reports, figures and models are in [bold]{output}[/]")
    return reports


def attack_all(
    world: KnowledgeWorld,
    models: dict[str, Path],
    floor: Path,
    suite: list[Adversary],
    output: Path,
    seeds: tuple[int, ...],
    workers: int,
) -> dict[str, Report]:
    """One report for each model, with base, twin and floor attacked alike; attacks already made are reused."""
    data = world.datasets()
    reports = {}
    for name, path in models.items():
        reports[name] = red_team(
            path,
            suite,
            datasets={"attacker": data["attacker"], "retain": data["retain"]},
            metrics=knowledge_metrics(world.seed),
            seeds=list(seeds),
            references={"base": models["base"], "twin": models["random_mapping"], "floor": floor},
            output_dir=output / "attacks",
            processing_class=world.tokenizer(),
            zero_step_attacks=knowledge_zero_step_attacks(world.seed),
            benign=BenignTask(data["benign"], benign_metric(world.seed)),
            question_entities=world.question_entities(),
            num_workers=workers,
        )
        folder = output / name
        folder.mkdir(exist_ok=True)
        reports[name].save(folder / "report.json")
    return reports


def write_comparison(reports: dict[str, Report], output: Path) -> None:
    """`comparison.json`: the models side by side."""
    rows = {name: comparison_row(report) for name, report in reports.items()}
    (output / "comparison.json").write_text(json.dumps({"models": rows}, indent=1))


def write_figures(reports: dict[str, Report], output: Path) -> None:
    """The figures of the README, from the reports and the training logs."""


def quiet() -> None:
    """One thread, and no warnings of libraries between the progress bars."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger("transformers").setLevel(logging.ERROR)
