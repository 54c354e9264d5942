"""The knowledge recipe on three worlds that nothing was tuned on, against two controls."""

import math
import shutil
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from ..adversaries.adversary import Adversary
from ..adversaries.suites import knowledge_suite, peft_suite
from ..files import write_json, write_text
from ..pipeline.console import quiet
from ..pipeline.knowledge_world import (
    LONGEST,
    control_without_adversary,
    knowledge_arguments,
    tar_config,
    training_adversaries,
)
from ..pipeline.run_folder import hold
from ..pipeline.steps import attack, harden
from ..report.intervals import Estimate, mean, t_interval
from ..report.measured_attack import measured_attacks
from ..report.older import by_todays_rules
from ..report.report import Report
from ..tasks.built_in import world_task
from ..views.words import interval, number
from .at_once import run_at_once
from .suites import NUM_STEPS, SCALE
from .table import HARM_COLUMNS, KEPT_COLUMNS, Columns, Row, markdown_table, row_of, terminal_table


WORLDS = {401: (0, 1, 2), 402: (0,), 403: (0,)}  # world seed → seeds of TAR
CONTROLS = {"no_adversary": False, "no_adversary_equal_passes": True}  # name → as many passes as TAR
WHAT_IT_IS = "A Llama of 0.2 M parameters of a knowledge world, as the evidence trains and attacks it."


def evidence_suite() -> list[Adversary]:
    """Returns the 26 attacks of [`knowledge_suite`] and the parameter-efficient ones, LoRA of rank 64 among them."""
    return [*knowledge_suite(NUM_STEPS, SCALE), *peft_suite(LONGEST, SCALE)]


def evidence(output: Path = Path("evidence"), workers: int = 2) -> None:
    """Trains, attacks and summarises everything; whatever is finished in `output` is not repeated.

    Args:
        output (`Path`, *optional*, defaults to `Path("evidence")`):
            Folder for models, attack records, reports, `evidence.json` and `table.md`.
        workers (`int`, *optional*, defaults to `2`):
            Trainings or attacks that run at the same time.
    """
    quiet()
    console = Console()
    hold(output)
    started = time.monotonic()
    for world_seed in WORLDS:  # made here, once, where a world has to be trained first
        shutil.copytree(world_task(world_seed).model, output / f"world-{world_seed}" / "base", dirs_exist_ok=True)
    jobs = [(world, kind, seed) for world, seeds in WORLDS.items() for kind, seed in _trainings(seeds)]
    for job in run_at_once(train_one, {job: (output, *job) for job in jobs}, workers):
        console.print(f"{time.monotonic() - started:6.0f} s  trained {job}")
    for world_seed in WORLDS:
        attack_world(output, world_seed, workers)
        console.print(f"{time.monotonic() - started:6.0f} s  attacked world {world_seed}")
    table, rows = summarise(output), rows_of(output)
    write_json(output / "evidence.json", {**table, "verdicts": rows})
    verdicts = markdown_table(rows, {**MODEL, **HARM_COLUMNS, **KEPT_COLUMNS})
    write_text(output / "table.md", f"{markdown(table)}\n\n{verdicts}")
    console.print(markdown(table))
    console.print(terminal_table("What came back", rows, {**MODEL, **HARM_COLUMNS}))
    console.print(terminal_table("What was kept", rows, {**MODEL, **KEPT_COLUMNS}))


def train_one(output: Path, world_seed: int, kind: str, seed: int) -> None:
    """Trains one model of the evidence, in a process of its own."""
    quiet()
    task, folder = world_task(world_seed), output / f"world-{world_seed}"
    tar, adversaries = tar_config(folder, seed), training_adversaries()
    if kind != "tar":
        tar, adversaries = control_without_adversary(tar, adversaries, CONTROLS[kind])
    harden(task, tar, adversaries, task.model, _name(kind, seed))


def attack_world(output: Path, world_seed: int, workers: int) -> None:
    """Attacks every model of one world, with base (the twin) and floor attacked alike; attacks already made are reused."""
    folder, task = output / f"world-{world_seed}", world_task(world_seed)
    args, tar = knowledge_arguments(world_seed, workers), tar_config(folder)
    for name in ("base", *(_name(*job) for job in _trainings(WORLDS[world_seed]))):
        adversaries = training_adversaries() if name.startswith("tar") else []
        references = {"base": task.model, "twin": task.model}
        title = f"{name} on knowledge world {world_seed}"
        attack(task, args, tar, adversaries, evidence_suite(), references, [folder / name], title, WHAT_IT_IS)


def _trainings(tar_seeds: tuple[int, ...]) -> list[tuple[str, int]]:
    return [*((kind, 0) for kind in reversed(CONTROLS)), *(("tar", seed) for seed in tar_seeds)]


def _name(kind: str, seed: int) -> str:
    return f"tar-{seed}" if kind == "tar" else kind


def summarise(output: Path) -> dict[str, Any]:
    """Summarises recovery and what was kept, for each model of each world, and over worlds and seeds of TAR.

    Intervals over worlds take one value a world (its mean over attacks and their seeds; TAR of seed 0), those over
    seeds of TAR one value a training."""
    worlds = {seed: _summarise_world(output / f"world-{seed}") for seed in WORLDS}
    first = {seed: world["tar-0"] for seed, world in worlds.items()}
    names = ["recovery", "recovery_of_26", "worst_recovery", "below_twin", *(f"below_{kind}" for kind in CONTROLS)]
    names += ["capability_share", "bystander_share"]
    over_worlds = {name: _over([model[name] for model in first.values()]) for name in names}
    several = next(seed for seed, tar_seeds in WORLDS.items() if len(tar_seeds) > 1)
    trainings = [worlds[several][f"tar-{seed}"] for seed in WORLDS[several]]
    twins = [world["base"] for world in worlds.values()]
    return {
        "worlds": worlds,
        "tar_over_worlds": over_worlds,
        "tar_over_training_seeds": {name: _over([model[name] for model in trainings]) for name in names},
        "twin_over_worlds": {n: _over([twin[n] for twin in twins]) for n in ("recovery", "worst_recovery")},
        "standard_deviation_of_recovery": _split_deviation(
            [model["recovery"] for model in first.values()],
            [model["recovery"] for model in trainings],
            [model["recovery_by_attack_seed"] for model in (*first.values(), *trainings[1:])],
        ),
    }


MODEL: Columns = {"world": lambda row: str(row["world"]), "model": lambda row: row["model"]}


def rows_of(output: Path) -> list[Row]:
    """Returns for each model of each world what its verdict reads: R, what was kept, and what a harmless user reaches."""
    files = [(seed, file) for seed in WORLDS for file in sorted(output.glob(f"world-{seed}/*/report.json"))]
    return [
        {"world": seed, "model": file.parent.name, **row_of(by_todays_rules(Report.load(file)))} for seed, file in files
    ]


def _over(values: list[float | None]) -> Estimate:
    """Returns the t interval, or no estimate where a value is missing, as the mean over the others would be of something else."""
    return t_interval([] if None in values else values)


def _split_deviation(worlds: list[float], trainings: list[float], by_seed: list[list[float]]) -> dict[str, float]:
    """Returns the standard deviation of R that each level adds, by moments: the variance of means minus that of what is below."""
    seeds = mean([_variance(values) for values in by_seed])
    training = max(0.0, _variance(trainings) - seeds / len(by_seed[0]))
    world = max(0.0, _variance(worlds) - training - seeds / len(by_seed[0]))
    return {"worlds": math.sqrt(world), "trainings": math.sqrt(training), "attack seeds": math.sqrt(seeds)}


def _summarise_world(folder: Path) -> dict[str, dict[str, Any]]:
    reports = {path.parent.name: Report.load(path) for path in sorted(folder.glob("*/report.json"))}
    twin = reports["base"]
    recoveries = {name: _recoveries(report) for name, report in reports.items()}
    rows = {}
    for name, report in reports.items():
        own = recoveries[name]
        seeds = sorted({seed for _, seed in own})
        rows[name] = {
            "recovery": report.summary["recovery"]["mean"],
            "recovery_of_26": _mean_of(own, knowledge_suite(NUM_STEPS, SCALE)),
            "worst_recovery": report.summary["worst_recovery"]["mean"],
            "recovery_by_attack_seed": [mean([r for (_, s), r in own.items() if s == seed]) for seed in seeds],
            "harm_before": report.before["harm"],
            "capability_before": report.before["capability"],
            "bystander_before": report.before["bystander"],
            "capability_share": report.before["capability"] / twin.before["capability"],
            "bystander_share": report.before["bystander"] / twin.before["bystander"],
            "zero_step": report.zero_step,
            "verdict": {"resistant": report.verdict.resistant, "empty_shell": report.verdict.empty_shell},
            "attacks": len(own),
        }
        for other in ("base", *CONTROLS):
            label = "below_twin" if other == "base" else f"below_{other}"
            pairs = [recoveries[other][key] - r for key, r in own.items() if key in recoveries[other]]
            rows[name][label] = mean(pairs) if pairs else None
    return rows


def _mean_of(recoveries: dict[tuple[str, int], float], suite: list[Adversary]) -> float | None:
    """Returns the mean over the attacks of a suite and their seeds, or `None` where one is missing."""
    seeds = {seed for _, seed in recoveries}
    values = [recoveries.get((adversary.name, seed)) for adversary in suite for seed in seeds]
    return None if not values or None in values else mean([value for value in values if value is not None])


def _recoveries(report: Report) -> dict[tuple[str, int], float]:
    found = {}
    for measured in measured_attacks(report.attacks, report.references, report.config["chance"]):
        if measured.record.finished:
            assert measured.recovery is not None  # harm is measured, and the base knows the answers
            found[measured.record.adversary, measured.record.seed] = measured.recovery
    return found


def _variance(values: list[float]) -> float:
    center = mean(values)
    return sum((value - center) ** 2 for value in values) / (len(values) - 1)


def markdown(table: dict[str, Any]) -> str:
    """Returns the README's table."""
    rows = ["| world | model | attacks | R, mean | R, strongest attack, at its end | capability | bystander |"]
    rows.append("|---|---|---|---|---|---|---|")
    for world, models in table["worlds"].items():
        for name, row in models.items():
            rows.append(
                f"| {world} | {name} | {row['attacks']} | {number(row['recovery'])} | {number(row['worst_recovery'])} | "
                f"{number(row['capability_before'])} | {number(row['bystander_before'])} |"
            )
    lines = ["\n".join(rows), ""]
    for name, estimate in table["tar_over_worlds"].items():
        lines.append(f"TAR over worlds, {name}: {_with_interval(estimate)}")
    for name, estimate in table["tar_over_training_seeds"].items():
        lines.append(f"TAR over seeds of training, {name}: {_with_interval(estimate)}")
    return "\n".join(lines)


def _with_interval(estimate: Estimate) -> str:
    return f"{interval(estimate)}, n = {estimate['n']}"
