"""Phase 1 of the refusal recipe: DPO teaches a model to refuse."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from trl import DPOConfig, DPOTrainer

from ..data.dataset_types import check_dataset
from ..tasks.task import Task
from ..trainers.tar_config import TARConfig
from .arguments import REPAIR, TAR, RecipeArguments
from .defence import Defence
from .steps import loaded, phase, shared_settings


def dpo(task: Task, args: "RefusalArguments", tar: TARConfig, name: str = "dpo") -> Path:
    """Trains DPO, with the task's model as its reference, into the folder `name` of the run; returns that folder."""
    settings = {
        **shared_settings(tar),
        "max_steps": args.safeguard_steps,
        "learning_rate": args.safeguard_learning_rate,
        "beta": args.safeguard_beta,
        "loss_type": ["sigmoid", "sft"],
        "loss_weights": [1.0, args.safeguard_sft_weight],
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": args.safeguard_steps // 10,
    }
    return phase(
        name,
        task.model,
        Path(tar.output_dir),
        DPOConfig(tar.output_dir, **settings),
        lambda model, config: DPOTrainer(
            model,
            ref_model=loaded(task.model),
            args=config,
            train_dataset=task.datasets["preferences"],
            processing_class=task.tokenizer,
        ),
        {"preferences": task.datasets["preferences"]},
        task.tokenizer,
    )


def check_dpo(task: Task, args: "RefusalArguments", tar: TARConfig) -> None:
    """Raises `ValueError` for pairs that DPO would refuse."""
    check_dataset("data.preferences", task.datasets["preferences"], preference=True)


@dataclass
class RefusalArguments(RecipeArguments):
    """
    Arguments of the refusal recipe, in addition to those that both recipes share.

    Args:
        phases (`list[str]`, *optional*, defaults to `["tar", "repair"]`):
            As in [`RecipeArguments`]. The default is for a model that refuses already.
        safeguard_steps (`int`, *optional*, defaults to `200`):
            Steps of DPO.
        safeguard_learning_rate (`float`, *optional*, defaults to `1e-6`):
            Learning rate of DPO.
        safeguard_beta (`float`, *optional*, defaults to `0.1`):
            β of DPO.
        safeguard_sft_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the cross-entropy of the chosen answers, next to DPO's loss.
    """

    defences: ClassVar[Mapping[str, Defence]] = {
        "dpo": Defence("DPO", "preferences", "safeguard_steps or safeguard_learning_rate", dpo, check_dpo)
    }

    phases: list[str] = field(default_factory=lambda: [TAR, REPAIR], metadata={"help": "Phases, in order."})
    # a choice: those of the refusal world
    safeguard_steps: int = field(default=200, metadata={"help": "Steps of DPO."})
    safeguard_learning_rate: float = field(default=1e-6, metadata={"help": "Of DPO."})
    safeguard_beta: float = field(default=0.1, metadata={"help": "Beta of DPO."})
    safeguard_sft_weight: float = field(default=1.0, metadata={"help": "Weight of cross-entropy beside DPO's loss."})

    def __post_init__(self):
        super().__post_init__()
        self.check_from_0("safeguard_sft_weight")
        self.check_above_0("safeguard_steps", "safeguard_learning_rate", "safeguard_beta")
