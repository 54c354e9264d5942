"""Refusal that survives fine-tuning: DPO where it is wanted, TAR against supervised attackers, then a repair on benign chat.

accelerate launch recipes/refusal.py --config recipes/configs/testbed_refusal.yaml
accelerate launch --config_file recipes/accelerate/ddp.yaml recipes/refusal.py --config recipes/configs/refusal.yaml

`phases` says which are run, in order: `[tar]` for a model that refuses already, `[dpo, tar]` for another, either with `repair`
behind it. Fields of `data`: `preferences` (chosen = refusal, for DPO), `retain` (benign chat), `general` and `self_written` (if
given, they join `retain` after phase 1), `tamper_resistance` (pairs, D_TR), those that the adversaries name, and `harmful`
(harmful requests and answers, of the red team). Any scalar of the YAML file can be overridden: `--learning_rate 3e-5`. A run
that was stopped goes on in the same `output_dir`.
"""

from trl_tar.pipeline.recipes import run_recipe


if __name__ == "__main__":
    run_recipe("refusal")
