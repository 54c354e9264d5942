"""Hazardous knowledge that stays hidden under fine-tuning: random mapping, then TAR against simulated attackers.

accelerate launch recipes/knowledge.py --config recipes/configs/testbed_knowledge.yaml
accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/knowledge.py --config recipes/configs/bio.yaml

Fields of `data`: `safeguard` (hazardous text; phase 1), `retain` (D_retain), `general` (if given, joins `retain` after phase
1), `tamper_resistance` (hazardous text, D_TR), those that the adversaries name, and `hazard` and `other_hazard` (of the red
team, by default). Any scalar of the YAML file can be overridden: `--learning_rate 3e-5`. A run that was stopped goes on in
the same `output_dir`.
"""

from dataclasses import dataclass, field
from pathlib import Path

from trl_tar import RandomMappingConfig, RandomMappingTrainer, TARConfig
from trl_tar.pipeline.arguments import RecipeArguments, described_task
from trl_tar.pipeline.checks import check, check_safeguard
from trl_tar.pipeline.steps import harden_and_attack, phase, run, shared_settings, suite_of
from trl_tar.tasks.built_in import knowledge_task
from trl_tar.tasks.task import d_retain, kept


@dataclass
class KnowledgeArguments(RecipeArguments):
    """
    Arguments of the knowledge recipe, beside those that both recipes share.

    Args:
        safeguard_steps (`int`, *optional*, defaults to `600`):
            Steps of phase 1, random mapping; 0 where the model is safeguarded already.
        safeguard_learning_rate (`float`, *optional*, defaults to `1e-5`), safeguard_warmup_steps (`int`, *optional*,
        defaults to `100`), safeguard_forget_batch_size (`int`, *optional*), safeguard_forget_weight (`float`, *optional*,
        defaults to `1.0`):
            Of phase 1.
        safeguard_with_general (`bool`, *optional*, defaults to `False`):
            Keep `general` beside `retain` in phase 1 already.
    """

    safeguard_steps: int = field(default=600, metadata={"help": "Steps of phase 1, random mapping; 0 leaves it out."})
    safeguard_learning_rate: float = field(default=1e-5, metadata={"help": "Of phase 1."})
    safeguard_warmup_steps: int = field(default=100, metadata={"help": "Of phase 1."})
    safeguard_forget_batch_size: int | None = field(default=None, metadata={"help": "Of phase 1, on one device."})
    safeguard_forget_weight: float = field(default=1.0, metadata={"help": "Of the mapping term in phase 1."})
    safeguard_with_general: bool = field(default=False, metadata={"help": "Keep `general` in phase 1 already."})

    def __post_init__(self):
        super().__post_init__()
        self.check_from_0("safeguard_steps", "safeguard_warmup_steps", "safeguard_forget_weight")
        self.check_above_0("safeguard_learning_rate")


def main(args: KnowledgeArguments, tar: TARConfig) -> None:
    adversaries = args.training_adversaries()
    suite = suite_of(args, "knowledge")
    needed = ("retain", "tamper_resistance", *(["safeguard"] if args.safeguard_steps else []))
    task = knowledge_task(args.world) if args.world is not None else described_task(args, needed, tar.pad_token)
    if args.safeguard_steps:
        check_safeguard(task, tar, args.safeguard_forget_batch_size)
    check(task, args, tar, adversaries, suite)
    output = Path(tar.output_dir)

    twin = task.model
    if args.safeguard_steps:
        read = kept(task) if args.safeguard_with_general else {"retain": task.datasets["retain"]}
        settings = {
            **shared_settings(tar),
            "dataset_text_field": tar.dataset_text_field,
            "max_steps": args.safeguard_steps,
            "learning_rate": args.safeguard_learning_rate,
            "warmup_steps": args.safeguard_warmup_steps,
            "forget_batch_size": args.safeguard_forget_batch_size,
            "forget_weight": args.safeguard_forget_weight,
        }
        twin = phase(
            "safeguard",
            task.model,
            output,
            RandomMappingConfig(tar.output_dir, **settings),
            lambda model, config: RandomMappingTrainer(
                model,
                config,
                train_dataset=d_retain(task) if args.safeguard_with_general else task.datasets["retain"],
                forget_dataset=task.datasets["safeguard"],
                processing_class=task.tokenizer,
            ),
            {**read, "safeguard": task.datasets["safeguard"]},
            task.tokenizer,
        )

    what = "A language model in which hazardous knowledge was to be hidden, also from those who fine-tune it."
    phase_1 = "random mapping" if args.safeguard_steps else ""
    harden_and_attack(task, args, tar, adversaries, suite, twin, what, phase_1)


if __name__ == "__main__":
    run(main, KnowledgeArguments, TARConfig)
