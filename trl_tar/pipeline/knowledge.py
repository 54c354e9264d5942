"""Phase 1 of the knowledge recipe: random mapping, or another defence on D_forget, hides what a model should not say."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import ClassVar

from ..data.dataset_types import check_dataset
from ..data.entities import refuse_shared_entities
from ..distributed.processes import num_ranks
from ..tasks.task import Task, d_retain, kept
from ..trainers.baselines.by_name import BASELINES
from ..trainers.data_checks import check_forget_rows
from ..trainers.forget_trainer import ForgetTrainer
from ..trainers.random_mapping_trainer import RandomMappingTrainer
from ..trainers.tar_config import TARConfig
from ..validation import check_at_least
from .arguments import TAR, RecipeArguments
from .defence import Defence
from .steps import phase, shared_settings


def hide(trainer_class: type[ForgetTrainer], task: Task, args: "KnowledgeArguments", tar: TARConfig, name: str) -> Path:
    """Trains a defence from the task's model into the folder `name` of the run; returns that folder."""
    shared = shared_settings(tar)
    if args.safeguard_batch_size is not None:
        shared["per_device_train_batch_size"] = args.safeguard_batch_size
    own = {"learning_rate": args.safeguard_learning_rate, "forget_weight": args.safeguard_forget_weight}
    settings = {
        **shared,
        "dataset_text_field": tar.dataset_text_field,
        "max_steps": args.safeguard_steps,
        "warmup_steps": args.safeguard_warmup_steps,
        "forget_batch_size": args.safeguard_forget_batch_size,
        **{field_name: value for field_name, value in own.items() if value is not None},
    }
    retain, hidden = task.datasets["retain"], task.datasets["safeguard"]
    return phase(
        name,
        task.model,
        Path(tar.output_dir),
        trainer_class.config_class(tar.output_dir, **settings),
        lambda model, config: trainer_class(
            model,
            config,
            train_dataset=d_retain(task) if args.safeguard_with_general else retain,
            forget_dataset=hidden,
            processing_class=task.tokenizer,
        ),
        {**(kept(task) if args.safeguard_with_general else {"retain": retain}), "safeguard": hidden},
        task.tokenizer,
    )


random_mapping = partial(hide, RandomMappingTrainer)


def check_hidden(task: Task, args: "KnowledgeArguments", tar: TARConfig) -> None:
    """Raises `ValueError` for hazardous text that these defences would refuse."""
    hidden = task.datasets["safeguard"]
    check_dataset("data.safeguard", hidden, False, tar.dataset_text_field)
    for name, dataset in kept(task).items():
        refuse_shared_entities(f"data.{name}", dataset, "data.safeguard", hidden)
    size = args.safeguard_forget_batch_size or args.safeguard_batch_size or tar.per_device_train_batch_size
    check_forget_rows(len(hidden), size * tar.gradient_accumulation_steps * num_ranks())


@dataclass
class KnowledgeArguments(RecipeArguments):
    """
    Arguments of the knowledge recipe, in addition to those that both recipes share.

    Args:
        phases (`list[str]`, *optional*, defaults to `["random_mapping", "tar"]`):
            As in [`RecipeArguments`], with the phases of the paper.
        safeguard_steps (`int`, *optional*, defaults to `600`):
            Steps of phase 1.
        safeguard_learning_rate (`float`, *optional*), safeguard_warmup_steps (`int`, *optional*, defaults to `100`):
            Learning rate of phase 1, by default that of its configuration, and the steps in which it rises from 0.
        safeguard_batch_size (`int`, *optional*):
            Rows of D_retain in a batch of phase 1 on one device; by default as many as in phase 2.
        safeguard_forget_batch_size (`int`, *optional*), safeguard_forget_weight (`float`, *optional*):
            Hazardous rows in a batch of phase 1 on one device, and the weight of their term, by default that of its
            configuration.
        safeguard_with_general (`bool`, *optional*, defaults to `False`):
            Keep `general` as well as `retain` in phase 1 already.
    """

    defences: ClassVar[Mapping[str, Defence]] = {
        name: Defence(
            trainer.config_class.method,
            "safeguard",
            "safeguard_steps, safeguard_learning_rate or safeguard_forget_weight",
            partial(hide, trainer),
            check_hidden,
        )
        for name, trainer in {"random_mapping": RandomMappingTrainer, **BASELINES}.items()
        if trainer.forget_objective == "sft"
    }

    phases: list[str] = field(default_factory=lambda: ["random_mapping", TAR], metadata={"help": "Phases, in order."})
    safeguard_steps: int = field(default=600, metadata={"help": "Steps of phase 1."})
    safeguard_learning_rate: float | None = field(default=None, metadata={"help": "Of phase 1."})
    safeguard_warmup_steps: int = field(default=100, metadata={"help": "Of phase 1."})
    safeguard_batch_size: int | None = field(default=None, metadata={"help": "Of phase 1, on one device."})
    safeguard_forget_batch_size: int | None = field(default=None, metadata={"help": "Of phase 1, on one device."})
    safeguard_forget_weight: float | None = field(
        default=None, metadata={"help": "Of the hazardous rows' term in phase 1."}
    )
    safeguard_with_general: bool = field(default=False, metadata={"help": "Keep `general` in phase 1 already."})

    def __post_init__(self):
        super().__post_init__()
        self.check_from_0("safeguard_warmup_steps", "safeguard_forget_weight")
        self.check_above_0("safeguard_steps", "safeguard_learning_rate")
        check_at_least("The recipe", self, safeguard_batch_size=1)
