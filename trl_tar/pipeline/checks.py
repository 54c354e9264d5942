"""Checks of a recipe before its first phase, and the overlap of its data."""

import math

import torch
from datasets import Dataset, concatenate_datasets
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_utils import IntervalStrategy

from ..adversaries.adversary import Adversary
from ..adversaries.data_order import check_adversary_batches
from ..data.dataset_types import check_dataset, check_prompts
from ..data.entities import check_disjoint, refuse_question_entities
from ..distributed.processes import rank
from ..models.adapters import whole_model
from ..models.lora import check_lora_targets, module_names
from ..models.tokenizers import check_tokenizer
from ..red_teaming.checks import (
    check_benign,
    check_budget,
    check_max_length,
    check_red_team,
    check_wordings,
    checked_chance,
    checked_steps,
    smallest_context,
)
from ..red_teaming.job import Settings
from ..report.contamination import QUESTIONS, contamination, questions_of, rows_of
from ..tasks.task import KEPT, Task, d_retain, kept
from ..trainers.data_checks import check_tamper_resistance_rows, checked_adversaries
from ..trainers.model_checks import check_memory_modes
from ..trainers.tar_config import TARConfig
from ..validation import check_sizes, coerce_numbers
from ..views.words import contamination_sentence
from .arguments import RecipeArguments


def check(
    task: Task, args: RecipeArguments, tar: TARConfig, adversaries: list[Adversary], suite: list[Adversary]
) -> None:
    """Raises `ValueError` for what a phase or the red team would refuse, before the first phase begins.

    Lowers `max_length` to the model's context, and prints how much text red team and training have in common."""
    for defence in args.chosen_defences:
        defence.check(task, args, tar)
    tar.check()
    check_max_length(tar.max_length)
    _check_sizes(tar)
    assert tar.max_length is not None  # check_max_length
    tar.max_length = min(tar.max_length, smallest_context([task.model]) or tar.max_length)
    check_memory_modes(tar, adversaries, sharded=False)  # what FSDP2 forbids, TARTrainer says
    check_tokenizer(task.tokenizer, str(task.model))
    _check_trained_on(task, tar, adversaries)
    both = [*adversaries, *(single for attack in suite for single in attack.sequence)]
    _check_lora(task, both)
    attackers = both if args.attack_seeds else adversaries
    for name, dataset in task.datasets.items():
        batches = (rows for adversary in attackers for read, rows in adversary.rows_per_batch().items() if read == name)
        wanted = max(batches, default=1)
        if name == "tamper_resistance":
            wanted = max(wanted, tar.tamper_resistance_batch_size)
        if args.attack_seeds and any(name in attack.reads for attack in suite):
            wanted = max(wanted, math.ceil(len(dataset) / 2))  # which the red team asks for
        check_prompts(f"data.{name}", dataset, task.tokenizer, tar.max_length, max(1, min(wanted, len(dataset))))
    if args.attack_seeds:
        _check_attacks(task, args, tar, adversaries, suite)
        _check_questions(task, adversaries)
        if rank() == 0:
            print(contamination_sentence(overlap(task, adversaries, suite), list(task.metrics)), flush=True)


def _check_sizes(tar: TARConfig) -> None:
    """Raises `ValueError` for numbers of steps, rows or processes that no phase can be trained with."""
    check_sizes(tar, ("per_device_train_batch_size", "gradient_accumulation_steps"))
    coerce_numbers(tar, ("max_steps", "seed", "dataloader_num_workers"), int)
    if tar.max_steps == 0 or tar.max_steps < -1:
        raise ValueError(f"TARConfig has max_steps={tar.max_steps}. Use at least 1, or -1 for num_train_epochs.")
    if tar.dataloader_num_workers < 0:
        raise ValueError(f"TARConfig has dataloader_num_workers={tar.dataloader_num_workers}. Use at least 0.")
    if not 0 <= tar.seed < 2**32:
        raise ValueError(f"TARConfig has seed={tar.seed}. Use a whole number from 0 to 2**32 - 1.")
    if tar.eval_strategy != "no":
        raise ValueError(
            f"TARConfig has eval_strategy={IntervalStrategy(tar.eval_strategy).value!r}, and a recipe has no data to "
            "evaluate its phases on. Leave it out: the red team measures."
        )
    try:
        for callback in get_reporting_integration_callbacks(tar.report_to):
            callback()  # which finds out whether its package is there
    except (ValueError, RuntimeError, ImportError) as error:
        raise ValueError(
            f"TARConfig has report_to={tar.report_to!r} ({str(error).splitlines()[0]}). Name another."
        ) from error


def _check_trained_on(task: Task, tar: TARConfig, adversaries: list[Adversary]) -> None:
    """Checks what phase 2 reads as phase 2 does; rows are counted before those without a token to predict are dropped."""
    checked_adversaries(adversaries, task.datasets, tar)
    check_adversary_batches(adversaries, task.datasets)
    held_out = task.datasets["tamper_resistance"]
    check_dataset("data.tamper_resistance", held_out, tar.loss.takes_pairs, tar.dataset_text_field)
    check_tamper_resistance_rows(held_out, tar)
    for name, dataset in kept(task).items():
        check_dataset(f"data.{name}", dataset, False, tar.dataset_text_field)
    _check_kept(task, tar.dataset_text_field)
    check_disjoint(d_retain(task), held_out, adversaries, task.datasets)


def _check_kept(task: Task, text_field: str) -> None:
    """Raises `ValueError` for a data set that cannot join `retain`: rows of two types would have columns without a value."""
    retain, *others = kept(task).items()
    for name, dataset in others:
        joined, retained = ({*rows.column_names} - {"entity"} for rows in (dataset, retain[1]))
        try:
            both = concatenate_datasets([retain[1], dataset])
            check_dataset(f"data.retain with data.{name}", both, False, text_field)
        except ValueError as error:  # of datasets too, for a column of two types
            raise ValueError(
                f"`data.{name}` has columns {sorted(joined)} and `data.retain` {sorted(retained)}, which cannot be trained "
                f"on together ({str(error).splitlines()[0]}). Give both in one type."
            ) from error


def _check_lora(task: Task, adversaries: list[Adversary]) -> None:
    """Raises `ValueError` for adapters that phase 2 or the red team would refuse, by the names of the model's modules."""
    config = AutoConfig.from_pretrained(whole_model(str(task.model)), trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    check_lora_targets(module_names(model), adversaries)


def _check_attacks(
    task: Task, args: RecipeArguments, tar: TARConfig, adversaries: list[Adversary], suite: list[Adversary]
) -> None:
    checked_chance(args.chance)
    checked_steps(args.attack_evaluation_steps)
    check_budget(args.attack_budget)
    settings = Settings(
        task.tokenizer,
        metrics=task.metrics,
        zero_step_attacks=task.zero_step_attacks,
        benign_metric=None if task.benign is None else task.benign.metric,
        max_length=tar.max_length,
        bf16=tar.bf16,
    )
    models = {"model": str(task.model), "base": str(task.model)}
    seeds = range(args.attack_seeds)
    simulated = {name: task.datasets[name] for adversary in adversaries for name in adversary.datasets}
    check_wordings(settings, simulated)
    check_red_team(models, suite, task.datasets, settings, seeds, args.attack_workers, task.question_entities)
    check_adversary_batches([part for attack in suite for part in attack.sequence], task.datasets)
    if task.benign is not None:
        read = attacked_with(task, suite)
        check_benign(task.benign.dataset, task.benign.batch_size, models, read, task.question_entities)
        check_wordings(settings, {"benign": task.benign.dataset})


def _check_questions(task: Task, adversaries: list[Adversary]) -> None:
    """Raises `ValueError` where a simulated attack is taught an answer, or the defender's data holds one that harm does not
    cover. The data of the red team is checked with its attacks."""
    for name in dict.fromkeys(name for adversary in adversaries for name in adversary.datasets):
        refuse_question_entities(f"data.{name}", task.datasets[name], task.question_entities)
    reason = "only `harm` and `validation_harm` may ask about what the defender's data holds"
    for name, dataset in task.datasets.items():
        uncovered = task.question_entities - task.covered_entities
        refuse_question_entities(f"data.{name}", dataset, uncovered, reason)


def attacked_with(task: Task, suite: list[Adversary]) -> dict[str, Dataset]:
    """Returns the data sets that the red team reads, each under its name."""
    read = {name for adversary in suite for name in adversary.reads}
    return {name: dataset for name, dataset in task.datasets.items() if name in read}


# data sets that phases read, in addition to those of the adversaries
TRAINED_ON = ("safeguard", "preferences", *KEPT, "tamper_resistance")


def overlap(task: Task, adversaries: list[Adversary], suite: list[Adversary]) -> dict[str, dict[str, float]]:
    """Returns the overlap of the red team's data with the data of all phases, and of the questions with both, as
    [`contamination`] does."""
    trained_on = {*TRAINED_ON, *(name for adversary in adversaries for name in adversary.datasets)} & set(task.datasets)
    attacked = set(attacked_with(task, suite)) - trained_on
    questions = {f"{QUESTIONS}{name}": questions_of(metric) for name, metric in task.metrics.items()}
    trained = {name: rows_of(task.datasets[name]) for name in sorted(trained_on)}
    attacks = {name: list(rows_of(task.datasets[name])) for name in sorted(attacked)}
    return contamination({**attacks, **questions}, {**trained, **attacks})
