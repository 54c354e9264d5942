"""Safeguarding and hardening on the knowledge world, with the settings that the demo and the evidence use."""

import json
import os
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import LlamaForCausalLM, PrinterCallback, ProgressCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from ..adversary import Adversary
from ..losses import inner_weight
from ..random_mapping_config import RandomMappingConfig
from ..random_mapping_trainer import RandomMappingTrainer
from ..tar_config import TARConfig
from ..tar_trainer import TARTrainer
from .knowledge import KnowledgeWorld


OUTER_STEPS = 300
INNER_STEPS = 32
INTERVAL = 4
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
    """Phase 1: random mapping on the base model. Returns the folder of the safeguarded model."""
    if (output_dir / "model.safetensors").is_file():
        return output_dir
    data = world.datasets()
    args = RandomMappingConfig(
        str(output_dir), max_steps=600, learning_rate=3e-4, warmup_steps=50, forget_batch_size=32, seed=seed, **COMMON
    )
    trainer = RandomMappingTrainer(
        LlamaForCausalLM.from_pretrained(base, dtype="float32"),
        args,
        train_dataset=data["retain"],
        forget_dataset=data["safeguard"],
        processing_class=world.tokenizer(),
    )
    return _train(trainer, output_dir)


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
            Checkpoints, the model and the log; a finished run is not repeated, a stopped one resumes.
        seed (`int`, *optional*, defaults to `0`):
            Seed of adversaries and data order.
        adversaries (`list[Adversary]`, *optional*):
            A_train; [`training_adversaries`] by default.
        **settings:
            Fields of [`TARConfig`] that differ.
    """
    if (output_dir / "model.safetensors").is_file():
        return output_dir
    data = world.datasets()
    defaults = {
        "max_steps": OUTER_STEPS,
        "learning_rate": 2e-3,
        "warmup_steps": 20,
        "tamper_resistance_weight": 0.4,
        "representation_weight": 2.0,
        "tamper_resistance_batch_size": 32,
        "tamper_resistance_interval": INTERVAL,
    }
    args = TARConfig(str(output_dir), seed=seed, **{**COMMON, **defaults, **settings})
    trainer = TARTrainer(
        LlamaForCausalLM.from_pretrained(start, dtype="float32"),
        args,
        train_dataset=data["retain"],
        tamper_resistance_dataset=data["tamper_resistance"],
        adversaries=training_adversaries() if adversaries is None else adversaries,
        adversary_datasets={"forget": data["forget"], "retain": data["retain"]},
        processing_class=world.tokenizer(),
    )
    return _train(trainer, output_dir)


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
        tamper_resistance_weight=settings.pop("tamper_resistance_weight", 0.4) * sum(weights),
        max_steps=steps * passes // 2 if equal_passes else steps,
        **settings,
    )


class _ProgressBar(TrainerCallback):
    """One bar with the time left, in place of the trainer's own lines."""

    def __init__(self, label: str):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn())
        self.task = self.bar.add_task(label)

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
        self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.stop()


def _train(trainer: TARTrainer | RandomMappingTrainer, output_dir: Path) -> Path:
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(_ProgressBar(output_dir.name.replace("_", " ")))
    last = get_last_checkpoint(output_dir) if output_dir.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    trainer.model.config.use_cache = True
    unfinished = output_dir / "unfinished"
    trainer.save_model(str(unfinished))
    (output_dir / "log_history.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    for file in sorted(unfinished.iterdir(), key=lambda path: path.name == "model.safetensors"):
        os.replace(file, output_dir / file.name)  # the weights last: they say that the run is finished
    unfinished.rmdir()
    return output_dir
