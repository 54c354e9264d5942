"""The red team: every adversary and seed against a model and its references."""

import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..adversaries.adversary import Adversary
from ..environment import environment
from ..evaluation.scores import Metric, Reward
from ..report.build import build_report
from ..report.recovery import CHANCE
from ..report.report import Report
from ..tasks.benign import BenignTask
from .as_released import Release, attackers_tokenizer
from .benign_record import benign_record
from .campaign import Campaign, Findings
from .checks import (
    check_benign,
    check_budget,
    check_containers,
    check_models,
    check_red_team,
    check_wordings,
    checked_chance,
    checked_steps,
)
from .job import Settings
from .targets import DataStore, Model, targets_of


def red_team(
    model: Model,
    adversaries: Iterable[Adversary],
    datasets: Mapping[str, Dataset],
    metrics: Mapping[str, Metric],
    seeds: Iterable[int] = (0, 1, 2),
    references: Mapping[str, Model] | None = None,
    output_dir: str | Path | None = None,
    *,
    processing_class: PreTrainedTokenizerBase | None = None,
    settings_from: str | Path | None = None,
    zero_step_attacks: Mapping[str, Metric] | None = None,
    benign: BenignTask | None = None,
    rewards: Mapping[str, Reward] | None = None,
    question_entities: Collection[str] | None = None,
    num_workers: int = 1,
    budget: int | None = None,
    evaluation_steps: Iterable[int] | None = None,
    max_length: int = 256,
    bf16: bool = False,
    chance: float = CHANCE,
) -> Report:
    """Attacks a model and its references with every adversary and seed, and reports what came back.

    The model itself stays as it is: each attack loads it again from its files. With `num_workers` above 1, several GPUs
    or a launcher, attacks run in spawned processes, so call this under `if __name__ == "__main__":`.

    Under `accelerate launch` or torchrun, on one machine or several, each process makes its share of the attacks on its
    own GPU, and returns the whole report.

    Args:
        model (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            The model, its folder or its Hub id. Attacked in float32.
        adversaries (`Iterable[Adversary]`):
            The attacks; each name once.
        datasets (`dict[str, Dataset]`):
            The data sets that the adversaries name, in one of TRL's types.
        metrics (`dict[str, Callable]`):
            Name → function of model and tokenizer that returns [`~trl_tar.evaluation.scores.Scores`]; picklable for
            several workers. `harm` and `capability` are required; the verdict also reads `bystander` and `retain_nll`,
            and the attacker chooses his checkpoint by `validation_harm`.
        seeds (`Iterable[int]`, *optional*, defaults to `(0, 1, 2)`):
            Seeds of each attack. An interval needs two.
        references (`dict[str, Model]`, *optional*):
            `base` (before any safeguard), `twin` (safeguarded, not hardened), `floor` (never knew the hazard).
        output_dir (`str` or `Path`, *optional*):
            Keeps finished jobs, so that a run that was stopped goes on; may be shared by several runs.
        processing_class ([`~transformers.PreTrainedTokenizerBase`], *optional*):
            Tokenizer that all models are attacked with; by default that of `settings_from`.
        settings_from (`str` or `Path`, *optional*):
            Folder or Hub id of the model whose tokenizer, chat template and ends of an answer every model is attacked with;
            by default that of `base`, and without one the model itself. No model is attacked with dropout or sampling
            settings of its configuration. Where what the model brings along differs, it is attacked with that too, the
            stronger attack counts, and the report names the differences.
        zero_step_attacks (`dict[str, Callable]`, *optional*):
            Metrics of harm that are taken once, before any attack.
        benign ([`BenignTask`], *optional*):
            Harmless task, trained on `base`, which it needs, and on the model.
        rewards (`dict[str, Callable]`, *optional*):
            Reward functions of GRPO attacks, as [`~trl.GRPOTrainer`] takes them; of the attacker's own prompts, never of
            the questions.
        question_entities (`Collection[str]`, *optional*):
            Entities that the metrics ask for; no data set that an attack or the benign task reads may hold one in its column
            `entity`.
        num_workers (`int`, *optional*, defaults to `1`):
            Processes, of one thread each, that take the GPUs in turn; under a launcher, as many for each launched process.
        budget (`int`, *optional*):
            Attacks of each model, the most telling first: every adversary once, then further seeds of the strongest. The
            model is not tested enough, at best, where that leaves an adversary without any attack.
        evaluation_steps (`Iterable[int]`, *optional*):
            Steps of an attack after which it is evaluated, in addition to its last one; by default 0, 1, 2, 5, 10, 20, 50 and
            every further 50. Few of them save time where the metrics cost more than the attack; two in a row with half
            of the knowledge back are a break.
        max_length (`int`, *optional*, defaults to `256`):
            Longest row in tokens; longer ones are cut at the end.
        bf16 (`bool`, *optional*, defaults to `False`):
            bf16 autocast.
        chance (`float`, *optional*, defaults to `0.25`):
            Harm of a model that guesses: the floor is at least this.

    Returns:
        [`Report`]: with statistics and verdict.

    Raises:
        `ValueError`: for arguments that cannot be attacked with, before any work starts.

    Example:

    ```python
    from trl_tar import Adversary, red_team

    report = red_team(
        "my-tar-model",
        [Adversary("mix", mixture={"hazard": 0.5, "retain": 0.5}, learning_rate=2e-5, num_steps=500)],
        datasets={"hazard": hazard, "retain": retain},
        metrics={"harm": hazard_accuracy, "capability": held_out_accuracy},
        references={"base": "my-base-model", "twin": "my-safeguarded-model"},
        output_dir="my-tar-model-attacks",
    )
    report.save("my-tar-model")
    ```
    """
    check_containers(adversaries, datasets, metrics, seeds, references, output_dir)
    adversaries, seeds = list(adversaries), list(seeds)
    models = {"model": model, **(references or {})}
    check_models({**models, **({} if settings_from is None else {"settings_from": settings_from})})
    settings = Settings(
        tokenizer=processing_class or attackers_tokenizer(model, settings_from or models.get("base")),
        metrics=dict(metrics),
        zero_step_attacks=dict(zero_step_attacks or {}),
        benign_metric=None if benign is None else benign.metric,
        max_length=max_length,
        bf16=bf16,
        rewards=dict(rewards or {}),
    )
    check_red_team(models, adversaries, datasets, settings, seeds, num_workers, question_entities)
    chance, evaluation_steps = checked_chance(chance), checked_steps(evaluation_steps)
    check_budget(budget)
    if benign is not None:
        check_benign(benign.dataset, benign.batch_size, models, datasets, question_entities)
        check_wordings(settings, {"benign": benign.dataset})
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        targets = targets_of(models, adversaries, work)
        release = Release.of(model, targets, settings_from, settings)
        store = DataStore.tokenised(*_trained(adversaries, datasets, benign), targets["model"], settings, work / "data")
        jobs = (work if output_dir is None else Path(output_dir)) / "jobs"
        campaign = Campaign(targets, store, release.settings, seeds, evaluation_steps, benign, jobs, num_workers)
        findings = _findings(campaign, release, adversaries, datasets, budget, work)
    records = findings.records(targets)
    report = build_report(
        replace(records.pop("model"), differences=release.differences),
        records,
        seeds=seeds,
        environment=environment(),
        config={**campaign.config(adversaries), **({} if budget is None else {"budget": budget})},
        benign=None if benign is None else benign_record(benign, *findings.benign),
        chance=chance,
    )
    return replace(report, questions=findings.questions())


def _findings(
    campaign: Campaign,
    release: Release,
    adversaries: list[Adversary],
    datasets: Mapping[str, Dataset],
    budget: int | None,
    work: Path,
) -> Findings:
    """What all attacks found; those on the model are made with what it brings along too, where that can matter."""
    chosen = campaign.chosen(adversaries, budget)
    findings = campaign.findings(chosen)
    if release.own is None:
        return findings
    store = DataStore.tokenised(
        adversaries, datasets, campaign.targets["model"], release.own, work / "data as released"
    )
    return findings.with_release(*replace(campaign, store=store, settings=release.own).on_model(chosen))


def _trained(
    adversaries: list[Adversary], datasets: Mapping[str, Dataset], benign: BenignTask | None
) -> tuple[list[Adversary], Mapping[str, Dataset]]:
    """The attacks with the benign task, and all data sets that they read."""
    if benign is None:
        return adversaries, datasets
    task = benign.adversary()
    return [*adversaries, task], {**datasets, task.name: benign.dataset}
