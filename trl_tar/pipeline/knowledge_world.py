"""Safeguarding and hardening on the knowledge world, with the settings that the demo and the evidence use."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets import concatenate_datasets
from transformers import LlamaForCausalLM
from trl import SFTConfig

from ..adversaries.adversary import Adversary
from ..fingerprints import origin
from ..losses import inner_weight
from ..red_teaming.runner import red_team
from ..report.report import Report
from ..tasks.benign import BenignTask
from ..testbed.knowledge.general_text import general_text
from ..testbed.knowledge.metrics import benign_metric, knowledge_metrics, knowledge_zero_step_attacks
from ..testbed.knowledge.world import KnowledgeWorld
from ..trainers.random_mapping_config import RandomMappingConfig
from ..trainers.random_mapping_trainer import RandomMappingTrainer
from ..trainers.recorded_settings import decisive
from ..trainers.tar_config import TARConfig
from ..trainers.tar_trainer import TARTrainer
from .phases import train_phase
from .run_folder import is_finished, training_record


ATTACKER_MIX = {"attacker": 0.5, "retain": 0.5}  # entities that training never simulated, and D_retain


def attack_all(
    world: KnowledgeWorld,
    base: Path,
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
            references={"base": base, "twin": models["random_mapping"], "floor": floor},
            output_dir=output / "attacks",
            processing_class=world.tokenizer(),
            zero_step_attacks=knowledge_zero_step_attacks(world.seed),
            benign=BenignTask(data["benign"], benign_metric(world.seed)),
            question_entities=world.question_entities(),
            num_workers=workers,
        )
        trained_in = dict.fromkeys([models["random_mapping"], path]) if name != "base" else []
        described = {"kind": "knowledge", "world": str(world.seed)}
        reports[name] = replace(reports[name], task=described, training=training_record(trained_in))
        folder = output / name
        folder.mkdir(exist_ok=True)
        reports[name].save(folder / "report.json")
    return reports


OUTER_STEPS = 300
INNER_STEPS = 32
INTERVAL = 4
TAMPER_RESISTANCE_WEIGHT = 8.0
MIX = {"forget": 0.5, "retain": 0.5}
# settings of every trainer here: a model of 0.2 M parameters on the CPU
COMMON = {
    "use_cpu": True,
    "bf16": False,
    "report_to": "none",
    "logging_steps": 10,
    "save_steps": 100,
    "save_total_limit": 1,
    "per_device_train_batch_size": 64,
    "dataloader_num_workers": 0,
    "max_length": 32,
}


def training_adversaries(num_steps: int = INNER_STEPS) -> list[Adversary]:
    """A_train: balanced mixes, retain→forget and LoRA at three learning rates each."""
    adversaries = []
    for rate in (2e-4, 1e-3, 2e-3):
        common = {"learning_rate": rate, "num_steps": num_steps, "batch_size": 32}
        adversaries += [
            Adversary(f"mix-{rate:g}", mixture=MIX, **common),
            Adversary(f"retain-forget-{rate:g}", "forget", first_dataset="retain", **common),
            Adversary(f"lora-8-mix-{rate:g}", mixture=MIX, lora_r=8, weight=0.5, **common),
            Adversary(f"lora-32-mix-{rate:g}", mixture=MIX, lora_r=32, weight=0.5, **common),
        ]
    return adversaries


def safeguard(world: KnowledgeWorld, base: Path, output_dir: Path, seed: int = 0) -> Path:
    """Phase 1: random mapping on the base model. Returns the folder of the safeguarded model.

    A finished run is not repeated and a stopped one resumes; `ValueError` for a folder that holds another run."""
    settings = {"max_steps": 600, "learning_rate": 3e-4, "warmup_steps": 50, "forget_batch_size": 32, **COMMON}
    args = RandomMappingConfig(str(output_dir), seed=seed, **settings)
    if is_finished(output_dir, _description(world, base, args)):
        return output_dir
    data = world.datasets()
    trainer = RandomMappingTrainer(
        LlamaForCausalLM.from_pretrained(base, dtype="float32"),
        args,
        train_dataset=data["retain"],
        forget_dataset=data["safeguard"],
        processing_class=world.tokenizer(),
    )
    return train_phase(trainer, output_dir)


def harden(
    world: KnowledgeWorld,
    start: Path,
    output_dir: Path,
    seed: int = 0,
    adversaries: list[Adversary] | None = None,
    **settings,
) -> Path:
    """Phase 2: TAR on the safeguarded model. Returns the folder of the hardened model.

    Args:
        world ([`KnowledgeWorld`]):
            The world.
        start (`Path`):
            Folder of the safeguarded model.
        output_dir (`Path`):
            Checkpoints, the model and the log; a finished run is not repeated, a stopped one resumes. `ValueError` if it
            holds a run of another world, seed, start or setting.
        seed (`int`, *optional*, defaults to `0`):
            Seed of adversaries and data order.
        adversaries (`list[Adversary]`, *optional*):
            A_train; [`training_adversaries`] by default.
        **settings:
            Fields of [`TARConfig`] that differ.
    """
    defaults = {
        "max_steps": OUTER_STEPS,
        "learning_rate": 6e-2,
        # above the usual norm, below the rare step that would undo the model
        "max_grad_norm": 100.0,
        # far above the usual 1e-8, with which a weight moves by the learning rate also where its gradient is noise:
        # with that, more came back under attack on the tuning worlds
        "adam_epsilon": 0.3,
        "warmup_steps": 20,
        "per_device_train_batch_size": 128,
        "tamper_resistance_weight": TAMPER_RESISTANCE_WEIGHT,
        "representation_loss": "l2_squared",
        "representation_weight": 1.0,
        "tamper_resistance_batch_size": 32,
        "tamper_resistance_interval": INTERVAL,
    }
    settings = {**COMMON, **defaults, **settings}
    adversaries = training_adversaries() if adversaries is None else adversaries
    args = TARConfig(str(output_dir), seed=seed, **settings)
    description = _description(world, start, args)
    if is_finished(output_dir, {**description, "adversaries": [asdict(adversary) for adversary in adversaries]}):
        return output_dir
    data = world.datasets()
    model = LlamaForCausalLM.from_pretrained(start, dtype="float32")
    trainer = TARTrainer(
        model,
        args,
        train_dataset=concatenate_datasets([data["retain"], general_text(world, model)]),
        tamper_resistance_dataset=data["tamper_resistance"],
        adversaries=adversaries,
        adversary_datasets={"forget": data["forget"], "retain": data["retain"]},
        processing_class=world.tokenizer(),
    )
    return train_phase(trainer, output_dir)


def control_without_adversary(
    world: KnowledgeWorld, start: Path, output_dir: Path, seed: int = 0, equal_passes: bool = False, **settings
) -> Path:
    """TAR with K = 0: the tamper-resistance loss at θ, with no attack, and the same total weight.

    Args:
        world, start, output_dir, seed, **settings:
            As for [`harden`].
        equal_passes (`bool`, *optional*, defaults to `False`):
            As many forward/backward passes as TAR, in place of as many outer steps.
    """
    weights = [
        inner_weight(k, INNER_STEPS, INTERVAL, "exponential", 1 / 16)
        for k in range(INTERVAL - 1, INNER_STEPS, INTERVAL)
    ]
    passes = INNER_STEPS + INNER_STEPS // INTERVAL + 1
    steps = settings.pop("max_steps", OUTER_STEPS)
    return harden(
        world,
        start,
        output_dir,
        seed,
        adversaries=[Adversary("none", "forget", num_steps=0, batch_size=32)],
        tamper_resistance_weight=settings.pop("tamper_resistance_weight", TAMPER_RESISTANCE_WEIGHT) * sum(weights),
        max_steps=steps * passes // 2 if equal_passes else steps,
        **settings,
    )


def _description(world: KnowledgeWorld, start: Path, args: SFTConfig) -> dict[str, Any]:
    """What decides a run's weights, defaults included."""
    settings = decisive(args.to_dict())
    return {"world": world.seed, "start_sha256": origin(start), "seed": args.seed, "settings": settings}
