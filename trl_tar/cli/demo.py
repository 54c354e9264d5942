"""`trl-tar demo`: a model is hardened and attacked, and a report says what came back."""

import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ..files import write_json, write_text
from ..pipeline.console import quiet, without_a_terminal
from ..pipeline.knowledge_world import (
    control_without_adversary,
    demo_suite,
    knowledge_arguments,
    tar_config,
    training_adversaries,
)
from ..pipeline.run_folder import check_run, hold
from ..pipeline.steps import attack, harden
from ..report.recovery import recovery_before
from ..report.report import Report
from ..tasks.built_in import world_task
from ..views.card import model_card
from ..views.figure_style import save_figure
from ..views.figures import plot_adversary_loss, plot_ages, plot_attacks, plot_tradeoff, plot_training
from ..views.words import interval, number, told


LABELS = {"base": "base (twin)", "no_adversary": "K = 0 control", "tar": "TAR"}
DESCRIPTIONS = {
    "base": "A Llama of 0.2 M parameters that knows every fact of an invented world, the stand-in hazardous ones included.",
    "no_adversary": "The base after the tamper-resistance loss with no attack simulated, as many outer steps as TAR: its control.",
    "tar": "The base after tamper-resistant training (TAR) against simulated fine-tuning attacks.",
}
SHORT_LABELS = {"base": "base", "no_adversary": "K = 0", "tar": "TAR"}


def demo(output: Path = Path("demo"), seed: int = 0, world_seed: int = 0, workers: int = 2) -> dict[str, Report]:
    """Runs the steps of the knowledge recipe, and a control without adversaries; finished steps are not repeated. TAR starts
    from the base, which is its own twin.

    Args:
        output (`Path`, *optional*, defaults to `Path("demo")`):
            Folder for models, reports, figures and `comparison.json`; it holds one world and seed.
        seed (`int`, *optional*, defaults to `0`):
            Seed of both trainings.
        world_seed (`int`, *optional*, defaults to `0`):
            Seed of the world; any but 0 first trains its own base and floor models.
        workers (`int`, *optional*, defaults to `2`):
            Attacks, or trainings, that run at the same time; with several, call this under `if __name__ == "__main__":`.

    Returns:
        `dict[str, Report]`: one report a model.
    """
    quiet()
    console = Console()
    check_run(output, {"world": world_seed, "seed": seed})
    hold(output)
    console.rule(f"Knowledge world {world_seed}")
    base = output / "base"
    shutil.copytree(world_task(world_seed).model, base, dirs_exist_ok=True)
    console.print(
        "TAR, whose outer steps go on with simulated attacks; and beside it the base and a control without any (K = 0)"
    )
    reports = train_and_attack(output, seed, world_seed, workers)
    write_comparison(reports, output)
    write_card(reports, output, write_figures(reports, output))
    console.print(comparison_table(reports))
    console.print(f"TAR: {told(reports['tar'])[0]}", soft_wrap=True)
    console.print(
        f"Open [bold]{output / 'tar' / 'report.html'}[/]; the other reports, figures and models are in [bold]{output}[/]"
    )
    return reports


def train_and_attack(output: Path, seed: int, world_seed: int, workers: int) -> dict[str, Report]:
    """Trains TAR and its control and attacks them and the base. With several workers, what is not TAR is made at the same time."""
    if workers == 1:
        return {**without_tar(output, seed, world_seed), "tar": with_tar(output, seed, world_seed)}
    pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=without_a_terminal)
    try:
        others = pool.submit(without_tar, output, seed, world_seed)
        tar = with_tar(output, seed, world_seed, workers - 1)
        return {**others.result(), "tar": tar}
    finally:
        pool.shutdown(cancel_futures=True)


def without_tar(output: Path, seed: int, world_seed: int) -> dict[str, Report]:
    """Attacks the base, whose attacks all reports compare with and which so comes first, and trains and attacks the control."""
    base = attack_one(output, seed, world_seed, "base")
    train_one(output, seed, world_seed, "no_adversary")
    return {"base": base, "no_adversary": attack_one(output, seed, world_seed, "no_adversary")}


def with_tar(output: Path, seed: int, world_seed: int, workers: int = 1) -> Report:
    """Trains and attacks TAR."""
    train_one(output, seed, world_seed, "tar")
    return attack_one(output, seed, world_seed, "tar", workers)


def attack_one(output: Path, seed: int, world_seed: int, name: str, workers: int = 1) -> Report:
    """Attacks one of the models, with the base as its reference; attacks that are there are not made again."""
    base, simulated = output / "base", training_adversaries() if name == "tar" else []
    return attack(
        replace(world_task(world_seed), model=base),
        knowledge_arguments(world_seed, workers),
        tar_config(output, seed),
        simulated,
        demo_suite(world_seed),
        {"base": base, "twin": base},
        [output / name],
        title_of(name),
        DESCRIPTIONS[name],
    )


def train_one(output: Path, seed: int, world_seed: int, name: str) -> None:
    """Trains one of the two from the base into its folder."""
    quiet()
    task, tar, adversaries = (
        replace(world_task(world_seed), model=output / "base"),
        tar_config(output, seed),
        training_adversaries(),
    )
    if name == "no_adversary":
        tar, adversaries = control_without_adversary(tar, adversaries)
    harden(task, tar, adversaries, task.model, name)


def title_of(name: str) -> str:
    """Returns the heading of a model's card."""
    return f"{LABELS[name]} on the knowledge world"


def comparison_row(report: Report) -> dict[str, float | None]:
    """Returns the numbers of one model in `comparison.json`."""
    summary, benign = report.summary, report.benign
    return {
        "harm_before": report.before["harm"],
        "capability_before": report.before["capability"],
        "bystander_before": report.before["bystander"],
        "harm_after_mean": summary["harm_after"]["mean"],
        "harm_after_worst": summary["worst_harm"]["mean"],
        "capability_after_mean": summary["capability_after"]["mean"],
        "recovery_before": recovery_before(report, report.references, report.config["chance"]),
        "recovery_mean": summary["recovery"]["mean"],
        "recovery_worst": summary["worst_recovery"]["mean"],
        "recovery_unseen": next((g.value for g in report.verdict.gates if g.name == "harm_unseen_recovery"), None),
        "selectivity": summary["selectivity"]["mean"],
        "benign_gain": None if benign is None else benign["trainability"]["mean"],
    }


def write_comparison(reports: dict[str, Report], output: Path) -> None:
    """Writes `comparison.json`, with the models side by side."""
    write_json(output / "comparison.json", {"models": {name: comparison_row(r) for name, r in reports.items()}})


def comparison_table(reports: dict[str, Report]) -> Table:
    """Returns the models side by side, for the terminal."""
    caption = (
        "harm after attack with 95 % interval over seeds · worst: the strongest attack · R: share of the hidden "
        "knowledge that came back, and of what nobody's data names · cap., byst.: capability before attack on held-out entities and on a domain of which "
        "no phase sees a fact · gain: on a harmless task, as a share of the base's"
    )
    table = Table(title="What came back under attack", caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("\nmodel", no_wrap=True)
    for column in ("harm\nbefore", "harm\nafter", "\nworst", "\nR", "R,\nunseen", "\ncap.", "\nbyst.", "\ngain"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, report in reports.items():
        before, row, after = report.before, comparison_row(report), report.summary["harm_after"]
        table.add_row(
            SHORT_LABELS[name],
            number(before["harm"]),
            interval(after),
            number(row["harm_after_worst"]),
            number(row["recovery_mean"]),
            number(row["recovery_unseen"]),
            number(before["capability"]),
            number(before["bystander"]),
            number(row["benign_gain"]),
        )
    return table


def write_card(reports: dict[str, Report], output: Path, figures: list[dict[str, str]]) -> None:
    """Writes TAR's card, with the figures of all models, as the folder's own."""
    card = model_card(reports["tar"], title_of("tar"), DESCRIPTIONS["tar"], figures, repository="tar")
    write_text(output / "README.md", card)


def write_figures(reports: dict[str, Report], output: Path) -> list[dict[str, str]]:
    """Draws the figures of the card from the reports and TAR's training log; returns `path` and `alt` of each."""
    folder = output / "figures"
    models = {label: reports[name] for name, label in LABELS.items()}
    figures = [
        ("attacks.png", plot_attacks(models), "Harm and held-out capability along the attack"),
        ("adversary_loss.png", plot_adversary_loss(models), "The attacker's loss along the attack"),
        ("tradeoff.png", plot_tradeoff(models), "Capability against harm, before and after attack"),
        ("training.png", plot_training(output / "tar" / "log_history.json"), "Training curves of TAR"),
    ]
    ages = plot_ages(output / "tar" / "log_history.json")
    if ages is not None:
        figures.append(("ages.png", ages, "Tamper-resistance loss by the age of the simulated attack"))
    for name, figure, _ in figures:
        save_figure(figure, folder / name)
    return [{"path": f"figures/{name}", "alt": alt} for name, _, alt in figures]
