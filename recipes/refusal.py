"""Refusal that survives fine-tuning: DPO where it is wanted, TAR against supervised attackers, then a repair on benign chat.

accelerate launch recipes/refusal.py --config recipes/configs/testbed_refusal.yaml
accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/refusal.py --config recipes/configs/refusal.yaml

`phases` says which are run, in order: `[tar]` for a model that refuses already, `[dpo, tar]` for another, either with `repair`
behind it. Fields of `data`: `preferences` (chosen = refusal, for DPO), `retain` (benign chat), `general` and `self_written` (if
given, they join `retain` after phase 1), `tamper_resistance` (pairs, D_TR), those that the adversaries name, and `harmful`
(harmful requests and answers, of the red team). Any scalar of the YAML file can be overridden: `--learning_rate 3e-5`. A run
that was stopped goes on in the same `output_dir`.
"""

from pathlib import Path

from trl_tar import TARConfig
from trl_tar.pipeline.arguments import described_task
from trl_tar.pipeline.checks import check
from trl_tar.pipeline.refusal import RefusalArguments
from trl_tar.pipeline.run_folder import hold
from trl_tar.pipeline.steps import run, suite_of, train_and_attack
from trl_tar.tasks.built_in import refusal_task


def main(args: RefusalArguments, tar: TARConfig) -> None:
    adversaries = args.training_adversaries()
    suite = suite_of(args, "refusal")
    task = refusal_task(args.world) if args.world is not None else described_task(args, tar.pad_token)
    check(task, args, tar, adversaries, suite)
    hold(Path(tar.output_dir))
    what = "A language model that was to refuse harmful requests, also after it is fine-tuned."
    train_and_attack(task, args, tar, adversaries, suite, what)


if __name__ == "__main__":
    run(main, RefusalArguments, TARConfig)
