"""The red team: every adversary and seed against a model and its references."""

import platform
import tempfile
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..adversary import Adversary
from ..data import check_adversary_batches, own_tokenizer
from ..evaluation.scores import Metric
from ..model_checks import check_lora_targets, module_names
from ..questions import Questions
from ..records import AttackRecord, ModelRecord
from ..report import Report, build_report
from ..statistics import CHANCE
from .attackers import Reward
from .benign import BenignTask, benign_record
from .checks import (
    check_benign,
    check_budget,
    check_containers,
    check_models,
    check_red_team,
    checked_chance,
    checked_steps,
)
from .fingerprints import config_sha256, rows_sha256, weights_sha256
from .jobs import PACKAGES, Job, Settings, run_jobs
from .loading import base_weights, load, shown_name
from .rows import tokenised_datasets


Model = str | Path | PreTrainedModel
Attack = tuple[Adversary, int]  # and its seed


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

    The model itself stays as it is: each attack builds it anew from its files. With `num_workers` above 1, several GPUs
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
            Tokenizer of all the models; the model's own by default.
        zero_step_attacks (`dict[str, Callable]`, *optional*):
            Metrics of harm that are taken once, before any attack.
        benign ([`BenignTask`], *optional*):
            Harmless task, trained on `base`, which it needs, and on the model.
        rewards (`dict[str, Callable]`, *optional*):
            Reward functions of GRPO attacks, as [`~trl.GRPOTrainer`] takes them; of the attacker's own prompts, never of
            the questions.
        question_entities (`Collection[str]`, *optional*):
            Entities that the metrics ask for; no data set may hold one in its column `entity`.
        num_workers (`int`, *optional*, defaults to `1`):
            Processes, of one thread each, that take the GPUs in turn; under a launcher, of each launched process.
        budget (`int`, *optional*):
            Attacks of each model, the most telling first: every adversary once, then further seeds of the strongest. What
            is left out counts as unfinished, and no verdict is "resistant" then.
        evaluation_steps (`Iterable[int]`, *optional*):
            Steps of an attack after which it is evaluated, beside its last one; by default 0, 1, 2, 5, 10, 20, 50 and
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
    check_models(models)
    settings = Settings(
        tokenizer=own_tokenizer(loadable(model)) if processing_class is None else processing_class,
        metrics=dict(metrics),
        zero_step_attacks=dict(zero_step_attacks or {}),
        benign_metric=None if benign is None else benign.metric,
        max_length=max_length,
        bf16=bf16,
        rewards=dict(rewards or {}),
    )
    check_red_team(models, adversaries, datasets, settings, seeds, num_workers, question_entities)
    chance = checked_chance(chance)
    check_budget(budget)
    evaluation_steps = checked_steps(evaluation_steps)
    if benign is not None:
        check_benign(benign.dataset, benign.batch_size, models, datasets)
    tasks = [] if benign is None else [benign.adversary()]
    data = dict(datasets) if benign is None else {**datasets, tasks[0].name: benign.dataset}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        targets = {role: Target.of(each, work / role) for role, each in models.items()}
        for target in targets.values():
            check_lora_targets(target.modules, [each for adversary in adversaries for each in adversary.sequence])
        store = DataStore.tokenised([*adversaries, *tasks], data, targets["model"], settings, work / "data")
        before = [target.job() for target in targets.values()]
        learning = []
        if benign is not None:
            pair, steps = (targets["base"], targets["model"]), benign.evaluation_steps()
            learning = [store.job(target, tasks[0], seed, steps, True) for target in pair for seed in seeds]

        def done(attacks: Sequence[Attack], others: Sequence[Job] = ()) -> list[dict[str, Any]]:
            base = targets.get("base")
            wanted = [
                store.job(target, adversary, seed, grid(adversary, evaluation_steps), base=base)
                for target in targets.values()
                for adversary, seed in attacks
            ]
            return run_jobs([*others, *wanted], settings, jobs_folder, num_workers)

        jobs_folder = (work if output_dir is None else Path(output_dir)) / "jobs"
        attacks = [(adversary, seed) for adversary in adversaries for seed in seeds]
        if budget is not None and budget < len(attacks):
            first = [(adversary, seeds[0]) for adversary in adversaries][:budget]
            made = done(first, before)[len(before) :][: len(first)]  # the model's own; a bad metric is told by `before`
            harms = [AttackRecord(**result["record"]) for result in made]
            attacks = within_budget(attacks, first, harms, budget)
        results = iter(done(attacks, [*before, *learning]))

    measured = {role: next(results) for role in targets}
    learned = [AttackRecord(**next(results)["record"]) for _ in learning]
    records, answers = {}, {}
    for role, target in targets.items():
        made = [next(results) for _ in attacks]
        attacked = [AttackRecord(**each["record"]) for each in made]
        unattacked = {name: measured[role][name] for name in ("before", "standard_errors", "zero_step")}
        records[role] = ModelRecord(model=target.information, attacks=attacked, **unattacked)
        answers[role] = {f"{a.adversary}/{a.seed}": m["questions"] for a, m in zip(attacked, made, strict=True)}
    config = {
        "adversaries": [asdict(a) for a in adversaries],
        "datasets": store.description(),
        "metrics": list(metrics),
        "max_length": max_length,
        "bf16": bf16,
    }
    gains = None if benign is None else benign_record(benign, learned[: len(seeds)], learned[len(seeds) :])
    record = records.pop("model")
    report = build_report(
        record, records, seeds=seeds, environment=environment(), config=config, benign=gains, chance=chance
    )
    asked = {role: result["questions"] for role, result in measured.items()}
    return replace(report, questions=Questions(measured["model"]["groups"], asked, answers))


def grid(adversary: Adversary, evaluation_steps: Sequence[int] | None) -> tuple[int, ...] | None:
    """Of the wanted steps those that the attack has, and its last one; `None` for the default ones."""
    if evaluation_steps is None:
        return None
    return tuple(sorted({step for step in evaluation_steps if step < adversary.num_steps} | {adversary.num_steps}))


def within_budget(
    attacks: Sequence[Attack], first: Sequence[Attack], records: Sequence[AttackRecord], budget: int
) -> list[Attack]:
    """The attacks that tell most: each adversary once, then the other seeds of the strongest, the next strongest, ….

    Args:
        attacks (`Sequence[tuple]`):
            All pairs of adversary and seed; the result keeps their order.
        first (`Sequence[tuple]`):
            Those already made, with their `records`.
        budget (`int`):
            How many in all.
    """
    harm = {record.adversary: record.outcome["harm"] for record in records if record.finished}
    rest = [attack for attack in attacks if attack not in first and attack[0].name in harm]
    rest.sort(key=lambda attack: -harm[attack[0].name])  # stable: seeds of one adversary stay together
    chosen = [*first, *rest][:budget]
    return [attack for attack in attacks if attack in chosen]


def environment() -> dict[str, str]:
    """Versions and device that the numbers come from."""
    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    versions = {name: version(name) for name in PACKAGES}
    return {"trl-tar": _own_version(), **versions, "python": platform.python_version(), "device": device}


def _own_version() -> str:
    from .. import __version__  # the package may run from a folder where it is not installed

    return __version__


@dataclass(frozen=True)
class Target:
    """A model to attack: where its files are, what it is, a hash of its configuration, and what LoRA can target."""

    path: str
    information: dict[str, Any]
    config_sha256: str
    modules: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, folder: Path) -> "Target":
        """Hashes the model; one in memory is saved to `folder` first."""
        if isinstance(model, PreTrainedModel):
            model.save_pretrained(folder)
            path, name = str(folder), model.config._name_or_path
        else:
            path = name = str(model)
        loaded = load(path)
        information = {
            "id": shown_name(name),
            "weights_sha256": weights_sha256(loaded),
            "num_parameters": loaded.num_parameters(),
        }
        if (base := base_weights(path)) is not None:
            information["base_model"] = base
        return cls(path, information, config_sha256(loaded), tuple(module_names(loaded)))

    def job(self) -> Job:
        """What it can do before any attack."""
        return Job(self.path, self.information["weights_sha256"], self.config_sha256)


@dataclass
class DataStore:
    """Every data set, tokenised once for all jobs, by objective and name."""

    paths: dict[tuple[str, str], str] = field(default_factory=dict)
    sha256: dict[tuple[str, str], str] = field(default_factory=dict)
    rows: dict[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def tokenised(
        cls,
        adversaries: Sequence[Adversary],
        datasets: Mapping[str, Dataset],
        target: Target,
        settings: Settings,
        folder: Path,
    ) -> "DataStore":
        """Tokenises what the adversaries read; `ValueError` for a data set with fewer rows than a batch takes."""
        store, model = cls(), load(target.path)
        for adversary in adversaries:
            keys = [(objective, name) for name, objective in adversary.reads.items()]
            missing = [key for key in keys if key not in store.paths]
            if missing:
                tokenised = tokenised_datasets(model, settings.tokenizer, adversary, datasets, settings.max_length)
            for key in missing:
                store.rows[key] = len(tokenised[key[1]])
            sizes = {name: range(store.rows[objective, name]) for name, objective in adversary.reads.items()}
            check_adversary_batches(adversary.sequence, sizes)  # a range is as long as the data set
            for key in missing:
                store._add(key, tokenised[key[1]], folder / str(len(store.paths)))
        return store

    def _add(self, key: tuple[str, str], dataset: Dataset, folder: Path) -> None:
        assert not folder.exists()  # a data set would take the place of another
        dataset.save_to_disk(folder)
        self.paths[key], self.sha256[key] = str(folder), rows_sha256(dataset)

    def job(
        self,
        target: Target,
        adversary: Adversary,
        seed: int,
        evaluation_steps: tuple[int, ...] | None = None,
        benign: bool = False,
        base: Target | None = None,
    ) -> Job:
        """An attack, or a benign task."""
        keys = {name: (objective, name) for name, objective in adversary.reads.items()}
        paths = {name: self.paths[key] for name, key in keys.items()}
        digests = {name: self.sha256[key] for name, key in keys.items()}
        attack = {"adversary": adversary, "seed": seed, "data": paths, "data_sha256": digests}
        job = replace(target.job(), evaluation_steps=evaluation_steps, benign=benign, **attack)
        if not adversary.needs_base:
            return job
        assert base is not None  # check_red_team
        return replace(job, base=base.path, base_sha256=base.information["weights_sha256"])

    def description(self) -> list[dict[str, Any]]:
        """Name, objective, rows and hash of each, for the report."""
        return [
            {"name": key[1], "objective": key[0], "rows": self.rows[key], "sha256": self.sha256[key]}
            for key in self.paths
        ]


def loadable(model: Model) -> str | PreTrainedModel:
    """What transformers loads a configuration from."""
    return model if isinstance(model, PreTrainedModel) else str(model)
