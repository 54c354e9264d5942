"""The steps of recipes, demo and evidence: phase by phase, and the red team at the end."""

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from trl import TrlParser

from .. import interrupted
from ..adversaries.adversary import Adversary
from ..adversaries.from_yaml import named_adversaries
from ..data.sources import hub_datasets
from ..distributed.processes import rank
from ..fingerprints import origin, rows_sha256, vocabulary_sha256
from ..hub.evidence_folder import write_evidence
from ..hub.publishing import publish
from ..models.loading import load
from ..red_teaming.task_attack import measure_task, red_team_task
from ..report.recovery import too_little_hidden
from ..report.report import Report
from ..tasks.task import Task, d_retain, kept
from ..trainers.distillation_config import DistillationConfig
from ..trainers.distillation_trainer import DistillationTrainer
from ..trainers.presets import preset_settings
from ..trainers.recorded_settings import decisive
from ..trainers.tar_config import TARConfig
from ..trainers.tar_trainer import TARTrainer
from ..views.terminal import print_report
from .arguments import REPAIR, TAR, RecipeArguments
from .checks import attacked_with, overlap
from .console import silence
from .data_file import write_data_file
from .phases import train_phase
from .run_folder import UNWRITTEN, is_finished, release, training_record
from .shipped_files import shipped, shipped_config


ATTACKS = "attacks"  # folder of the red team's finished jobs in that of the run
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
    """Returns the settings of phase 2 that the other phases have too; each has a learning rate and steps of its own."""
    return {name: getattr(tar, name) for name in SHARED}


def in_folder(config: TrainingArguments, folder: Path) -> Any:
    """Returns the configuration of a phase with its own folder, without a push: the recipe itself pushes the last model."""
    args = copy.copy(config)
    args.output_dir, args.push_to_hub = str(folder), False
    return args


def loaded(model: str | Path) -> PreTrainedModel:
    """Loads a model in float32, as every phase trains it."""
    return load(str(model))


def phase(
    name: str,
    start: str | Path,
    output: Path,
    config: TrainingArguments,
    build: Callable[[Any, Any], Trainer],
    datasets: Mapping[str, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    adversaries: Sequence[Adversary] = (),
    reference: str | Path | None = None,
) -> Path:
    """Trains one phase into `output / name`, unless it is there; returns that folder.

    Args:
        name (`str`):
            Name of the phase, of its folder and of its progress bar.
        start (`str` or `Path`):
            Model that it starts from.
        output (`Path`):
            Folder of the run; whoever runs several phases in it calls [`~trl_tar.pipeline.run_folder.hold`] first.
        config ([`~transformers.TrainingArguments`]):
            Settings of the trainer. All of them are recorded, defaults included.
        build (`Callable`):
            Model in float32, and configuration with the phase's own folder → trainer.
        datasets (`dict[str, Dataset]`):
            Data sets that the phase reads. Like the settings and the start, their rows decide the result.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer, which decides how rows are cut and written as a chat.
        adversaries (`Sequence[Adversary]`, *optional*):
            A_train.
        reference (`str` or `Path`, *optional*):
            Model that the phase compares with, where that is not its start.

    Returns:
        `Path`: the folder of the trained model.

    Raises:
        `ValueError`: if the folder holds a run that something else decided.
    """
    folder = output / name
    run = {
        "start": origin(start),
        "tokenizer": vocabulary_sha256(tokenizer),
        "settings": decisive(config.to_dict()),
        "data": {key: rows_sha256(dataset) for key, dataset in datasets.items()},
        "adversaries": [asdict(adversary) for adversary in adversaries],
        "reference": None if reference is None else origin(reference),
    }
    if is_finished(folder, run):
        return folder
    return train_phase(build(loaded(start), in_folder(config, folder)), folder)


def harden(
    task: Task,
    tar: TARConfig,
    adversaries: list[Adversary],
    start: str | Path,
    name: str = TAR,
    reference: str | Path | None = None,
) -> Path:
    """Trains TAR from `start` into the folder `name` of the run; returns that folder.

    The anchors compare with `reference`, by default the start itself."""
    read = {key: task.datasets[key] for adversary in adversaries for key in adversary.datasets}
    other = None if reference in (None, start) else reference  # the trainer has its start's weights already
    return phase(
        name,
        start,
        Path(tar.output_dir),
        tar,
        lambda model, config: TARTrainer(
            model,
            config,
            train_dataset=d_retain(task),
            tamper_resistance_dataset=task.datasets["tamper_resistance"],
            adversaries=adversaries,
            adversary_datasets=read,
            ref_model=None if other is None else loaded(other),
            processing_class=task.tokenizer,
        ),
        {**kept(task), "tamper_resistance": task.datasets["tamper_resistance"], **read},
        task.tokenizer,
        adversaries,
        other,
    )


def repair(task: Task, args: RecipeArguments, tar: TARConfig, hardened: str | Path) -> Path:
    """Distils the task's model into the hardened one on D_retain, which brings back what TAR cost; returns the folder."""
    settings = {
        **shared_settings(tar),
        "dataset_text_field": tar.dataset_text_field,
        "max_steps": args.repair_steps,
        "learning_rate": args.repair_learning_rate,
    }
    return phase(
        REPAIR,
        hardened,
        Path(tar.output_dir),
        DistillationConfig(tar.output_dir, **settings),
        lambda model, config: DistillationTrainer(
            model,
            config,
            train_dataset=d_retain(task),
            ref_model=loaded(task.model),
            processing_class=task.tokenizer,
        ),
        kept(task),
        task.tokenizer,
        reference=task.model,
    )


def train_phases(task: Task, args: RecipeArguments, tar: TARConfig, adversaries: list[Adversary]) -> list[Path]:
    """Trains the recipe's phases, each from the model of the one before; returns their folders."""
    folders: list[Path] = []
    for name in args.phases:
        start = folders[-1] if folders else task.model
        if name == TAR:
            reference = reference_of(task, args, start)
            folders.append(harden(task.started_from(reference), tar, adversaries, start, reference=reference))
        elif name == REPAIR:
            folders.append(repair(task, args, tar, start))
        else:
            folders.append(args.defences[name].train(task, args, tar, name))
            if args.attack_seeds:
                warn_of_phase_1(task, args, tar, name, folders[-1])
    return folders


def warn_of_phase_1(task: Task, args: RecipeArguments, tar: TARConfig, name: str, folder: Path) -> None:
    """Says, before TAR trains, where phase 1 hid nothing or less than half, and what to raise. The red team reads what is measured
    here from its own files, and does not measure it again."""
    harm = {
        which: measured["harm"]
        for which, measured in measure_task(
            task,
            {"base": task.model, "hidden": folder},
            folder.parent / ATTACKS,
            args.attack_workers,
            tar.max_length,
            tar.bf16,
        ).items()
    }
    hidden = too_little_hidden(harm["base"], harm["hidden"], args.chance)
    if hidden is not None and rank() == 0:
        print(f"{hidden} Raise {args.defences[name].strength}.", file=sys.stderr)


def reference_of(task: Task, args: RecipeArguments, start: str | Path) -> str | Path:
    """Returns the model that TAR's anchors compare with, and that answers the general text."""
    return task.model if args.reference == "base" else start


def attack(
    task: Task,
    args: RecipeArguments,
    tar: TARConfig,
    adversaries: list[Adversary],
    suite: list[Adversary],
    references: Mapping[str, str | Path],
    trained: Sequence[Path],
    title: str,
    description: str,
) -> Report:
    """Red-teams the last of the models that were trained, and its references; writes report, card and pages next to its
    weights."""
    folder = trained[-1]
    report = red_team_task(
        replace(task, datasets=attacked_with(task, suite)),
        folder,
        suite,
        range(args.attack_seeds),
        references,
        folder.parent / ATTACKS,
        num_workers=args.attack_workers,
        budget=args.attack_budget,
        evaluation_steps=args.attack_evaluation_steps,
        max_length=tar.max_length,
        bf16=tar.bf16,
        chance=args.chance,
    )
    if rank() == 0:
        report = replace(
            report,
            config={
                **report.config,
                "contamination": overlap(task, adversaries, suite),
                "hub_datasets": hub_datasets(args.data),
                "base_model": args.base_model or task.base_model,
            },
            task=task.built_in,
            training=training_record(trained),
        )
        license = args.license or task.license
        report = write_evidence(report, folder, title, description, tar.hub_model_id, license)
    return report


def train_and_attack(
    task: Task,
    args: RecipeArguments,
    tar: TARConfig,
    adversaries: list[Adversary],
    suite: list[Adversary],
    what: str,
) -> None:
    """Runs a recipe: its phases, the red team, and the Hub. The card says `what` the model is.

    The twin is the model that TAR starts from; without a phase 1 that is the base, whose attacks are then made once."""
    trained = train_phases(task, args, tar, adversaries)
    title, description = Path(tar.output_dir).name, card_description(task, args, what)
    if args.attack_seeds:
        twin = [task.model, *trained][args.phases.index(TAR)]
        task = task.started_from(reference_of(task, args, twin))
        references = {"base": task.model, "twin": twin}
        report = attack(task, args, tar, adversaries, suite, references, trained, title, description)
        if rank() == 0:
            print_report(report, trained[-1])
            file = write_data_file(args, trained[-1])
            data = "" if file is None else f" --datasets {file}"
            print(f"To make attacks again: trl-tar verify {trained[-1]}{data}")
    if rank() == 0:
        print(f"The model is {trained[-1]}")
    push(trained[-1], tar, title, description, args.license or task.license)


def card_description(task: Task, args: RecipeArguments, what: str) -> str:
    """Returns the user's own words, or what the model is and which phases made it; never how well it holds."""
    if args.description is not None:
        return args.description
    words = {
        **{name: defence.words for name, defence in args.defences.items()},
        TAR: "tamper-resistant training (TAR) against simulated fine-tuning attacks",
        REPAIR: "distillation from the base on what it should keep",
    }
    return f"{task.description or what} Trained by {', then '.join(words[name] for name in args.phases)}."


def suite_of(args: RecipeArguments, default: str) -> list[Adversary]:
    """Returns the red team's attacks: those that the arguments name, or the recipe's own suite."""
    return named_adversaries(
        shipped(args.attacks or default), args.attack_steps, args.attack_learning_rate_scale, args.attack_batch_size
    )


def push(folder: Path, tar: TARConfig, title: str, description: str, license: str | None) -> None:
    """Publishes the folder's model, card and report on the Hub, where the configuration asks for it."""
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


def run(
    recipe: Callable[..., Any], *types: type, arguments: Sequence[str] | None = None, program: str | None = None
) -> None:
    """Runs the recipe with arguments from YAML (`--config`) and the command line, or from `arguments`.

    A refusal ends the program with one line and exit code 2, Ctrl-C with one line and the exit code of shells, 130."""
    silence()
    program = program or Path(sys.argv[0]).name
    try:
        recipe(*_parsed(types, _with_shipped_config(sys.argv[1:] if arguments is None else arguments)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        unwritten = isinstance(error, OSError) and error.errno in UNWRITTEN
        remedy = " Make it writable, or make room, and start again: what is finished is kept." if unwritten else ""
        print(f"{program}: {error}{remedy}", file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print(f"{program}: {interrupted.SENTENCE}", file=sys.stderr)
        raise SystemExit(interrupted.EXIT_CODE) from None
    finally:
        release()


def _with_shipped_config(arguments: Sequence[str]) -> list[str]:
    """The arguments, with the file that comes with the package where `--config` names one."""
    found = list(arguments)
    for i, argument in enumerate(found):
        if argument == "--config" and i + 1 < len(found):
            found[i + 1] = shipped_config(found[i + 1])
        elif argument.startswith("--config="):
            found[i] = f"--config={shipped_config(argument.removeprefix('--config='))}"
    return found


def _parsed(types: Sequence[type], arguments: list[str]) -> tuple[Any, ...]:
    """Arguments from YAML and the command line, over those of the preset that they name."""
    parser = TrlParser(types)
    try:
        parsed = parser.parse_args_and_config(arguments)
        if parsed[0].preset is None:
            return parsed
        parser = TrlParser(types)
        parser.set_defaults_with_config(**preset_settings(parsed[0].preset))
        return parser.parse_args_and_config(arguments)
    except TypeError as error:  # of transformers, for a value of YAML that it cannot compare
        raise ValueError(
            f"The recipe has a value of another type than its field ({error}). Mend it in YAML."
        ) from error
