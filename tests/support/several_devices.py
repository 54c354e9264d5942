"""What the cases on several devices share, replicated or sharded."""

import torch
from peft import LoraConfig
from support import tiny

from trl_tar import Adversary


ATTACK = {**tiny.ATTACK, "batch_size": 5}  # of two devices, one has three rows and the other two
ANCHORS = {"lm_weight": 0.0, "representation_loss": "relative", "kl_weight": 1.5}
CONTINUED = {
    "adversaries": [
        Adversary("full", "forget", **ATTACK),
        Adversary("lora", "forget", lora_r=2, **ATTACK),
        Adversary("benign", "rehearsal", role="benign", **ATTACK),
    ],
    "adversaries_per_step": 2,
    "steps_per_visit": 2,
    "num_attackers": 2,
    "tamper_resistance_interval": 1,
}
ADAPTER = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")


def first_log(trainer) -> dict[str, torch.Tensor]:
    """Losses and norms of the first step that was logged."""
    entry = trainer.state.log_history[0]
    return {name: torch.tensor(value) for name, value in entry.items() if "loss" in name or "norm" in name}
