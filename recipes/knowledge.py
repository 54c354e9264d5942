"""Hazardous knowledge that stays hidden under fine-tuning: random mapping where it is wanted, TAR against simulated attackers,
and a repair where it is wanted.

accelerate launch recipes/knowledge.py --config recipes/configs/testbed_knowledge.yaml
accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/knowledge.py --config recipes/configs/bio.yaml

`phases` says which are run, in order: `[tar]`, `[random_mapping, tar]` (the paper's), either with `repair` behind it.
Fields of `data`: `safeguard` (hazardous text, for random mapping), `retain` (D_retain), `general` and `self_written` (if given,
they join `retain` after phase 1), `tamper_resistance` (hazardous text, D_TR), those that the adversaries name, and `hazard`
and `other_hazard` (of the red team, by default). Any scalar of the YAML file can be overridden: `--learning_rate 3e-5`. A run
that was stopped goes on in the same `output_dir`.
"""

from pathlib import Path

from trl_tar import TARConfig
from trl_tar.pipeline.arguments import described_task
from trl_tar.pipeline.checks import check
from trl_tar.pipeline.knowledge import KnowledgeArguments
from trl_tar.pipeline.run_folder import hold
from trl_tar.pipeline.steps import run, suite_of, train_and_attack
from trl_tar.tasks.built_in import knowledge_task


def main(args: KnowledgeArguments, tar: TARConfig) -> None:
    adversaries = args.training_adversaries()
    suite = suite_of(args, "knowledge")
    task = knowledge_task(args.world) if args.world is not None else described_task(args, tar.pad_token)
    check(task, args, tar, adversaries, suite)
    hold(Path(tar.output_dir))
    what = "A language model in which hazardous knowledge was to be hidden, also from those who fine-tune it."
    train_and_attack(task, args, tar, adversaries, suite, what)


if __name__ == "__main__":
    run(main, KnowledgeArguments, TARConfig)
