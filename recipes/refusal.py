"""Refusal that survives fine-tuning: DPO, then TAR against supervised attackers, then a repair on benign chat.

accelerate launch recipes/refusal.py --config recipes/configs/testbed_refusal.yaml
accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/refusal.py --config recipes/configs/refusal.yaml

Fields of `data`: `preferences` (chosen = refusal; phase 1), `retain` (benign chat), `general` (if given, joins `retain` after
phase 1), `tamper_resistance` (pairs, D_TR), those that the adversaries name, and `harmful` (harmful requests and answers, of
the red team). Any scalar of the YAML file can be overridden: `--learning_rate 3e-5`. A run that was stopped goes on in the
same `output_dir`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from trl import DPOConfig, DPOTrainer

from trl_tar import TARConfig
from trl_tar.data.dataset_types import check_dataset
from trl_tar.pipeline.arguments import RecipeArguments, described_task
from trl_tar.pipeline.checks import check
from trl_tar.pipeline.run_folder import hold
from trl_tar.pipeline.steps import harden_and_attack, loaded, phase, run, shared_settings, suite_of
from trl_tar.tasks.built_in import refusal_task


@dataclass
class RefusalArguments(RecipeArguments):
    """
    Arguments of the refusal recipe, in addition to those that both recipes share.

    Args:
        safeguard_steps (`int`, *optional*, defaults to `0`):
            Steps of phase 1, DPO; 0 where the model refuses already.
        safeguard_learning_rate (`float`, *optional*, defaults to `1e-6`):
            Learning rate of phase 1.
        safeguard_beta (`float`, *optional*, defaults to `0.1`):
            β of DPO in phase 1.
        safeguard_sft_weight (`float`, *optional*, defaults to `1.0`):
            Weight of the cross-entropy of the chosen answers, next to DPO's loss, in phase 1.
        repair_steps (`int`, *optional*, defaults to `100`):
            As in [`RecipeArguments`], with another default.
    """

    safeguard_steps: int = field(default=0, metadata={"help": "Steps of phase 1, DPO; 0 leaves it out."})
    safeguard_learning_rate: float = field(default=1e-6, metadata={"help": "Of phase 1."})
    safeguard_beta: float = field(default=0.1, metadata={"help": "Beta of DPO in phase 1."})
    safeguard_sft_weight: float = field(default=1.0, metadata={"help": "Weight of cross-entropy beside DPO's loss."})
    repair_steps: int = field(default=100, metadata={"help": "Supervised steps on D_retain after TAR."})

    def __post_init__(self):
        super().__post_init__()
        self.check_from_0("safeguard_steps", "safeguard_sft_weight")
        self.check_above_0("safeguard_learning_rate", "safeguard_beta")


def main(args: RefusalArguments, tar: TARConfig) -> None:
    adversaries = args.training_adversaries()
    suite = suite_of(args, "refusal")
    needed = ("retain", "tamper_resistance", *(["preferences"] if args.safeguard_steps else []))
    task = refusal_task(args.world) if args.world is not None else described_task(args, needed, tar.pad_token)
    if args.safeguard_steps:
        check_dataset("data.preferences", task.datasets["preferences"], preference=True)
    check(task, args, tar, adversaries, suite)
    output, shared = Path(tar.output_dir), shared_settings(tar)
    hold(output)

    twin = task.model
    if args.safeguard_steps:
        settings = {
            **shared,
            "max_steps": args.safeguard_steps,
            "learning_rate": args.safeguard_learning_rate,
            "beta": args.safeguard_beta,
            "loss_type": ["sigmoid", "sft"],
            "loss_weights": [1.0, args.safeguard_sft_weight],
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": args.safeguard_steps // 10,
        }
        twin = phase(
            "safeguard",
            task.model,
            output,
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

    what = "A language model that was to refuse harmful requests, also after it is fine-tuned."
    harden_and_attack(task, args, tar, adversaries, suite, twin, what, "DPO" if args.safeguard_steps else "")


if __name__ == "__main__":
    run(main, RefusalArguments, TARConfig)
