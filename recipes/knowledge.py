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

from trl_tar.pipeline.recipes import run_recipe


if __name__ == "__main__":
    run_recipe("knowledge")
