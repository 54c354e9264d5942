"""Hazardous knowledge that stays hidden under fine-tuning: random mapping, then TAR against simulated attackers.

accelerate launch recipes/knowledge.py --config recipes/configs/testbed_knowledge.yaml
accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/knowledge.py --config recipes/configs/bio.yaml

Fields of `data`: `safeguard` (hazardous text; phase 1), `retain` (D_retain), `general` (if given, joins `retain` after phase
1), `tamper_resistance` (hazardous text, D_TR), those that the adversaries name, and `hazard` and `other_hazard` (of the red
team, by default). Any scalar of the YAML file can be overridden: `--learning_rate 3e-5`. A run that was stopped goes on in
the same `output_dir`.
"""

from pathlib import Path

from trl_tar import TARConfig
from trl_tar.pipeline.arguments import described_task
from trl_tar.pipeline.checks import check, check_safeguard
from trl_tar.pipeline.knowledge import KnowledgeArguments, safeguard
from trl_tar.pipeline.run_folder import hold
from trl_tar.pipeline.steps import harden_and_attack, run, suite_of
from trl_tar.tasks.built_in import knowledge_task


def main(args: KnowledgeArguments, tar: TARConfig) -> None:
    adversaries = args.training_adversaries()
    suite = suite_of(args, "knowledge")
    needed = ("retain", "tamper_resistance", *(["safeguard"] if args.safeguard_steps else []))
    task = knowledge_task(args.world) if args.world is not None else described_task(args, needed, tar.pad_token)
    if args.safeguard_steps:
        check_safeguard(task, tar, args.safeguard_forget_batch_size or args.safeguard_batch_size)
    check(task, args, tar, adversaries, suite)
    hold(Path(tar.output_dir))

    twin = safeguard(task, args, tar) if args.safeguard_steps else task.model
    what = "A language model in which hazardous knowledge was to be hidden, also from those who fine-tune it."
    phase_1 = "random mapping" if args.safeguard_steps else ""
    harden_and_attack(task, args, tar, adversaries, suite, twin, what, phase_1)


if __name__ == "__main__":
    run(main, KnowledgeArguments, TARConfig)
