"""What both recipes share: arguments, data and metrics, phase by phase, and the red team at the end."""

import copy
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset, concatenate_datasets, disable_progress_bars
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer, TrlParser

from .adversary import Adversary
from .contamination import QUESTIONS, contamination, questions_of, rows_of
from .data import check_dataset, check_prompts, check_tokenizer, checked_adversaries
from .data_sources import hub_datasets, load_datasets
from .described import adversaries_of, metric_of, named_adversaries, read_yaml
from .evaluation.scores import Metric
from .hub import publish, write_evidence
from .phases import decisive, is_finished, origin, train_phase, training_record
from .records import write_json
from .red_teaming import BenignTask, red_team
from .red_teaming.checks import check_budget, check_red_team, checked_chance, checked_steps
from .red_teaming.jobs import Settings
from .red_teaming.ranks import rank
from .report import Report
from .tar_config import TARConfig
from .tar_trainer import TARTrainer
from .wording import contamination_sentence


@dataclass
class RecipeArguments:
    """
    Arguments that the recipes share. Those of phase 2 are the fields of [`TARConfig`], beside them.

    Args:
        model_name_or_path (`str`, *optional*):
            The model to harden: folder or Hub id.
        world (`str`, *optional*):
            Seed of an embedded world, or the name of another task that comes with the package, in place of model, data
            sets and metrics.
        data (`dict`, *optional*):
            Name → file, or fields of [`~trl_tar.data_sources.DataSource`]. In YAML.
        metrics (`dict`, *optional*):
            Name → file of questions, `module:function`, or fields, see [`~trl_tar.described.metric_of`]. In YAML.
        adversaries (`list`, *optional*):
            A_train: fields of [`Adversary`] each. In YAML.
        adversaries_file (`str`, *optional*):
            YAML file with such a list, in place of `adversaries`.
        repair_steps (`int`, *optional*, defaults to `0`):
            Supervised steps on D_retain after TAR; 0 leaves them out.
        repair_learning_rate (`float`, *optional*, defaults to `1e-5`):
            Of the repair.
        attacks (`str`, *optional*):
            Suite of the red team by name, or a YAML file; the recipe's own by default.
        attack_steps (`int`, *optional*), attack_learning_rate_scale (`float`, *optional*):
            Arguments of a named suite.
        attack_seeds (`int`, *optional*, defaults to `3`):
            Seeds of each attack; 0 leaves the red team out.
        attack_budget (`int`, *optional*), attack_workers (`int`, *optional*, defaults to `1`):
            As in [`red_team`].
        attack_evaluation_steps (`list[int]`, *optional*):
            As `evaluation_steps` in [`red_team`].
        chance (`float`, *optional*):
            Harm of a model that guesses.
        description (`str`, *optional*):
            What the card says of the model; by default what the task is and which phases there were.
        base_model (`str`, *optional*), license (`str`, *optional*):
            For the card's metadata: Hub id of the model to harden, where that is a folder, and licence of the weights, as
            the Hub names it. A task that comes with the package knows its own.
    """

    model_name_or_path: str | None = field(default=None, metadata={"help": "Model to harden: folder or Hub id."})
    world: str | None = field(default=None, metadata={"help": "Seed of an embedded world, in place of model and data."})
    data: dict | None = field(default=None, metadata={"help": "Name → data set, in YAML."})
    metrics: dict | None = field(default=None, metadata={"help": "Name → metric, in YAML."})
    adversaries: list[dict] | None = field(default=None, metadata={"help": "A_train, in YAML."})
    adversaries_file: str | None = field(default=None, metadata={"help": "YAML file with A_train."})
    repair_steps: int = field(default=0, metadata={"help": "Supervised steps on D_retain after TAR."})
    repair_learning_rate: float = field(default=1e-5, metadata={"help": "Of the repair."})
    attacks: str | None = field(default=None, metadata={"help": "Suite of the red team: a name or a YAML file."})
    attack_steps: int | None = field(default=None, metadata={"help": "Steps of each attack of a named suite."})
    attack_learning_rate_scale: float | None = field(
        default=None, metadata={"help": "Multiplies the learning rates of a named suite."}
    )
    attack_seeds: int = field(default=3, metadata={"help": "Seeds of each attack; 0 leaves the red team out."})
    attack_budget: int | None = field(default=None, metadata={"help": "Attacks of each model at most."})
    attack_workers: int = field(default=1, metadata={"help": "Attacks that run at the same time on each process."})
    attack_evaluation_steps: list[int] | None = field(default=None, metadata={"help": "Steps to evaluate attacks at."})
    chance: float = field(default=0.25, metadata={"help": "Harm of a model that guesses."})
    description: str | None = field(default=None, metadata={"help": "What the card says of the model."})
    base_model: str | None = field(default=None, metadata={"help": "Hub id of the model to harden, for the card."})
    license: str | None = field(default=None, metadata={"help": "Licence of the weights, as the Hub names it."})

    def training_adversaries(self) -> list[Adversary]:
        """A_train from YAML or its own file; `ValueError` for none, or both."""
        if (self.adversaries is None) == (self.adversaries_file is None):
            raise ValueError("The recipe needs either `adversaries` or `adversaries_file`. Give one of them.")
        if self.adversaries is not None:
            return adversaries_of(self.adversaries)
        return adversaries_of(read_yaml(Path(self.adversaries_file), list, "Give a list of adversaries."))


@dataclass(frozen=True)
class Task:
    """What a recipe works on.

    Args:
        model (`Path` or `str`):
            The model to harden.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its tokenizer.
        datasets (`dict[str, Dataset]`):
            Of all phases and of the red team.
        metrics, zero_step_attacks (`dict[str, Callable]`):
            As in [`red_team`].
        references (`dict[str, Path]`):
            Such as a floor; base and twin are added.
        question_entities (`set[str]`), benign ([`BenignTask`], *optional*):
            As in [`red_team`].
        built_in (`dict`, *optional*):
            `kind` and `world` of a task that comes with the package, from which anybody can build it again.
        description, base_model, license (`str`, *optional*):
            For the card: what the task is, and Hub id and licence of the model.
    """

    model: str | Path
    tokenizer: PreTrainedTokenizerBase
    datasets: Mapping[str, Dataset]
    metrics: Mapping[str, Metric]
    zero_step_attacks: Mapping[str, Metric] = field(default_factory=dict)
    references: Mapping[str, Path] = field(default_factory=dict)
    question_entities: frozenset[str] = frozenset()
    benign: BenignTask | None = None
    built_in: Mapping[str, str] | None = None
    description: str | None = None
    base_model: str | None = None
    license: str | None = None

    @classmethod
    def described(cls, args: RecipeArguments, needed: tuple[str, ...]) -> "Task":
        """From model, `data` and `metrics`; `ValueError` where one is missing, before anything is loaded."""
        if args.model_name_or_path is None or not args.data:
            raise ValueError(
                "The recipe needs `model_name_or_path` and `data`, or `world`. Give them in its YAML file."
            )
        if args.attack_seeds and not args.metrics:
            raise ValueError("The recipe needs `metrics` for its red team. Give them, or attack_seeds: 0.")
        missing = [name for name in needed if name not in args.data]
        if missing:
            raise ValueError(
                f"`data` has {sorted(args.data)}, without {missing[0]!r}. Add the data set under that name."
            )
        metrics = {name: metric_of(name, each, Path()) for name, each in (args.metrics or {}).items()}
        tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
        return cls(args.model_name_or_path, tokenizer, load_datasets(args.data), metrics)


SHARED = (
    "seed",
    "use_cpu",
    "bf16",
    "max_length",
    "report_to",
    "logging_steps",
    "save_steps",
    "save_total_limit",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "dataloader_num_workers",
)


def shared_settings(tar: TARConfig) -> dict[str, Any]:
    """The fields of phase 2 that the other phases have too, beside a learning rate and a number of steps of their own."""
    return {name: getattr(tar, name) for name in SHARED}


def in_folder(config: TrainingArguments, folder: Path) -> Any:
    """The configuration of a phase in its own folder; the recipe pushes the last model itself."""
    args = copy.copy(config)
    args.output_dir, args.push_to_hub = str(folder), False
    return args


def loaded(model: str | Path) -> PreTrainedModel:
    """In float32, as every phase trains it."""
    return AutoModelForCausalLM.from_pretrained(model, dtype="float32")


def check(
    task: Task, args: RecipeArguments, tar: TARConfig, adversaries: list[Adversary], suite: list[Adversary]
) -> None:
    """Raises `ValueError` for what phase 2 or the red team would refuse, before phase 1 begins.

    Leaves `contamination.json` in the folder of the run, and says where red team and training have text in common."""
    tar.check()
    checked_adversaries(adversaries, task.datasets, tar)
    pairs = {"preferences"} | ({"tamper_resistance"} if tar.tamper_resistance_loss == "dpo" else set())
    for name in TRAINED_ON:
        if name in task.datasets:
            check_dataset(f"data.{name}", task.datasets[name], name in pairs, tar.dataset_text_field)
    check_tokenizer(task.tokenizer, str(task.model))
    for name, dataset in task.datasets.items():
        check_prompts(f"data.{name}", dataset, task.tokenizer, tar.max_length)
    if args.attack_seeds:
        checked_chance(args.chance)
        checked_steps(args.attack_evaluation_steps)
        check_budget(args.attack_budget)
        metrics = {"metrics": task.metrics, "zero_step_attacks": task.zero_step_attacks, "bf16": tar.bf16}
        settings = Settings(task.tokenizer, benign_metric=None, max_length=tar.max_length, **metrics)
        models = {"model": str(task.model), "base": str(task.model)}
        data = {name: dataset for name, dataset in task.datasets.items() if name != "benign"}
        seeds = range(args.attack_seeds)
        check_red_team(models, suite, data, settings, seeds, args.attack_workers, task.question_entities)
        if rank() == 0:
            shares = overlap(task, adversaries, suite)
            write_json(Path(tar.output_dir) / CONTAMINATION, shares)
            print(contamination_sentence(shares, list(task.metrics)), flush=True)


PHASES = ("safeguard", "tar", "repaired")  # folders of a run
CONTAMINATION = "contamination.json"
# data sets that phases read, beside those of the adversaries
TRAINED_ON = ("safeguard", "preferences", "retain", "general", "tamper_resistance")


def overlap(task: Task, adversaries: list[Adversary], suite: list[Adversary]) -> dict[str, dict[str, float]]:
    """Of the red team's data with the data of all phases, and of the questions with both; see [`contamination`]."""
    trained_on = {*TRAINED_ON, *(name for each in adversaries for name in each.datasets)} & set(task.datasets)
    attacked_with = {name for each in suite for name in each.reads} - trained_on
    questions = {f"{QUESTIONS}{name}": questions_of(metric) for name, metric in task.metrics.items()}
    trained = {name: rows_of(task.datasets[name]) for name in sorted(trained_on)}
    attacks = {name: list(rows_of(task.datasets[name])) for name in sorted(attacked_with)}
    return contamination({**attacks, **questions}, {**trained, **attacks})


def phase(
    name: str,
    start: str | Path,
    output: Path,
    config: TrainingArguments,
    build: Callable[[Any, Any], Trainer],
    adversaries: Sequence[Adversary] = (),
) -> Path:
    """Trains one phase into `output / name`, unless it is there; returns that folder.

    Args:
        name (`str`):
            Of the phase.
        start (`str` or `Path`):
            Model that it starts from.
        output (`Path`):
            Folder of the run.
        config ([`~transformers.TrainingArguments`]):
            What decides the result, beside the start: another run in the same folder is refused by it. All of it is
            recorded, defaults included.
        build (`Callable`):
            Model in float32, and configuration with the phase's own folder → trainer.
        adversaries (`Sequence[Adversary]`, *optional*):
            A_train, which decides the result too.
    """
    folder = output / name
    run = {
        "start": origin(start),
        "settings": decisive(config.to_dict()),
        "adversaries": [asdict(each) for each in adversaries],
    }
    if is_finished(folder, run):
        return folder
    return train_phase(build(loaded(start), in_folder(config, folder)), folder)


def d_retain(task: Task) -> Dataset:
    """`retain`, and beside it `general` where there is one."""
    retain, general = task.datasets["retain"], task.datasets.get("general")
    return retain if general is None else concatenate_datasets([retain, general])


def harden(task: Task, tar: TARConfig, adversaries: list[Adversary], twin: str | Path) -> Path:
    """Phase 2; returns the folder of the hardened model."""
    return phase(
        "tar",
        twin,
        Path(tar.output_dir),
        tar,
        lambda model, config: TARTrainer(
            model,
            config,
            train_dataset=d_retain(task),
            tamper_resistance_dataset=task.datasets["tamper_resistance"],
            adversaries=adversaries,
            adversary_datasets={name: task.datasets[name] for each in adversaries for name in each.datasets},
            processing_class=task.tokenizer,
        ),
        adversaries,
    )


def repair(task: Task, args: RecipeArguments, tar: TARConfig, hardened: Path) -> Path:
    """Supervised training on D_retain, which brings back what TAR cost; returns the folder of the last model."""
    if args.repair_steps == 0:
        return hardened
    settings = {**shared_settings(tar), "max_steps": args.repair_steps, "learning_rate": args.repair_learning_rate}
    return phase(
        "repaired",
        hardened,
        Path(tar.output_dir),
        SFTConfig(tar.output_dir, **settings),
        lambda model, config: SFTTrainer(model, config, train_dataset=d_retain(task), processing_class=task.tokenizer),
    )


def attack(
    task: Task,
    args: RecipeArguments,
    tar: TARConfig,
    suite: list[Adversary],
    references: Mapping[str, str | Path],
    folder: Path,
    title: str,
    description: str,
) -> Report:
    """Red-teams the model in `folder` and its references; writes report, card and pages beside the weights."""
    read = {name for adversary in suite for name in adversary.reads}
    report = red_team(
        folder,
        suite,
        {name: dataset for name, dataset in task.datasets.items() if name in read},
        task.metrics,
        range(args.attack_seeds),
        {**task.references, **references},
        folder.parent / "attacks",
        processing_class=task.tokenizer,
        zero_step_attacks=task.zero_step_attacks,
        question_entities=task.question_entities,
        benign=task.benign,
        num_workers=args.attack_workers,
        budget=args.attack_budget,
        evaluation_steps=args.attack_evaluation_steps,
        max_length=tar.max_length,
        bf16=tar.bf16,
        chance=args.chance,
    )
    if rank() == 0:
        shares = json.loads((folder.parent / CONTAMINATION).read_text(encoding="utf-8"))
        report = replace(
            report,
            config={
                **report.config,
                "contamination": shares,
                "hub_datasets": hub_datasets(args.data),
                "base_model": args.base_model or task.base_model,
            },
            task=task.built_in,
            training=training_record(folder.parent / name for name in PHASES),
        )
        license = args.license or task.license
        report = write_evidence(report, folder, title, description, tar.hub_model_id, license)
    return report


def harden_and_attack(
    task: Task,
    args: RecipeArguments,
    tar: TARConfig,
    adversaries: list[Adversary],
    suite: list[Adversary],
    twin: str | Path,
    what: str,
    phase_1: str,
) -> None:
    """All that comes after phase 1: TAR, repair, red team, and the Hub; `what` the model is and `phase_1` for the card."""
    last = repair(task, args, tar, harden(task, tar, adversaries, twin))
    title, description = Path(tar.output_dir).name, card_description(task, args, what, phase_1)
    if args.attack_seeds:
        attack(task, args, tar, suite, {"base": task.model, "twin": twin}, last, title, description)
    push(last, tar, title, description, args.license or task.license)


def card_description(task: Task, args: RecipeArguments, what: str, phase_1: str) -> str:
    """The user's own words, or what the model is and which phases made it: nothing of how it holds."""
    if args.description is not None:
        return args.description
    phases = [phase_1] if phase_1 else []
    phases.append("tamper-resistant training (TAR) against simulated fine-tuning attacks")
    if args.repair_steps:
        phases.append("supervised training on what it should keep")
    return f"{task.description or what} Trained by {', then '.join(phases)}."


def suite_of(args: RecipeArguments, default: str) -> list[Adversary]:
    """The red team's attacks."""
    return named_adversaries(args.attacks or default, args.attack_steps, args.attack_learning_rate_scale)


def push(folder: Path, tar: TARConfig, title: str, description: str, license: str | None) -> None:
    """The folder's model, card and report to the Hub, where the configuration asks for it."""
    if tar.push_to_hub and rank() == 0:
        publish(
            folder,
            tar.hub_model_id or title,
            title=title,
            description=description,
            license=license,
            private=tar.hub_private_repo,
            token=tar.hub_token,
            revision=tar.hub_revision,
        )


def run(recipe: Callable[..., Any], *types: type) -> None:
    """Runs the recipe with arguments from YAML (`--config`) and the command line.

    What is refused ends the program with one line and exit code 2."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # the phases have bars of their own
    disable_progress_bars()
    try:
        recipe(*TrlParser(types).parse_args_and_config())
    except (ValueError, OSError, yaml.YAMLError) as error:
        print(f"{Path(sys.argv[0]).name}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
