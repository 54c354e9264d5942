"""Settings of the knowledge recipe on its embedded world, as the demo, the evidence and `testbed_knowledge.yaml` have them."""

import copy
from pathlib import Path

from ..adversaries.adversary import Adversary
from ..losses import inner_weight
from ..trainers.tar_config import TARConfig
from .knowledge import KnowledgeArguments


ATTACKER_MIX = {"attacker": 0.5, "retain": 0.5}  # entities that training never simulated, and D_retain
MIX = {"forget": 0.5, "retain": 0.5}  # the same balance, of what training simulates
INNER_STEPS = 32


def knowledge_arguments(world: int = 0, workers: int = 2) -> KnowledgeArguments:
    """Returns the settings of phase 1 and of the red team, whose attacks and A_train are given as lists."""
    return KnowledgeArguments(
        world=str(world),
        safeguard_steps=600,
        safeguard_learning_rate=3e-4,
        safeguard_warmup_steps=50,
        safeguard_batch_size=64,
        safeguard_forget_batch_size=32,
        attack_workers=workers,
    )


def tar_config(output_dir: Path, seed: int = 0) -> TARConfig:
    """Returns the settings of phase 2: a model of 0.2 M parameters, trained on the CPU."""
    return TARConfig(
        str(output_dir),
        seed=seed,
        tamper_resistance_loss="entropy",
        tamper_resistance_weight=8.0,
        representation_loss="l2_squared",
        max_steps=300,
        learning_rate=6e-2,
        # above the usual norm, below the rare step that would undo the model
        max_grad_norm=100.0,
        # far above the usual 1e-8, with which a weight moves by the learning rate also where its gradient is noise:
        # with that, more came back under attack on the tuning worlds
        adam_epsilon=0.3,
        warmup_steps=20,
        tamper_resistance_batch_size=32,
        per_device_train_batch_size=128,
        max_length=32,
        use_cpu=True,
        bf16=False,
        logging_steps=10,
        save_steps=100,
        save_total_limit=1,
        report_to="none",
    )


def training_adversaries() -> list[Adversary]:
    """Returns A_train: balanced mixes, retain→forget and LoRA of two ranks, at three learning rates each."""
    adversaries = []
    for rate in (2e-4, 1e-3, 2e-3):
        common = {"learning_rate": rate, "num_steps": INNER_STEPS, "batch_size": 32}
        adversaries += [
            Adversary(f"mix-{rate:g}", mixture=MIX, **common),
            Adversary(f"retain-forget-{rate:g}", "forget", first_dataset="retain", **common),
            Adversary(f"lora-8-mix-{rate:g}", mixture=MIX, lora_r=8, weight=0.5, **common),
            Adversary(f"lora-32-mix-{rate:g}", mixture=MIX, lora_r=32, weight=0.5, **common),
        ]
    return adversaries


def control_without_adversary(tar: TARConfig, equal_passes: bool = False) -> tuple[TARConfig, list[Adversary]]:
    """TAR with K = 0: the tamper-resistance loss at θ, with no attack, and the same total weight.

    Args:
        tar ([`TARConfig`]):
            Settings of the TAR that it is the control of, with attacks of [`training_adversaries`].
        equal_passes (`bool`, *optional*, defaults to `False`):
            As many forward/backward passes as TAR, in place of as many outer steps.

    Returns:
        `tuple[TARConfig, list[Adversary]]`: settings of the control, and its A_train.
    """
    interval = tar.tamper_resistance_interval
    weights = [
        inner_weight(k, INNER_STEPS, interval, tar.inner_weighting, tar.inner_weighting_rate)
        for k in range(interval - 1, INNER_STEPS, interval)
    ]
    passes = INNER_STEPS + INNER_STEPS // interval + 1  # of an outer step of TAR; the control's has 2
    control = copy.copy(tar)
    control.tamper_resistance_weight = tar.tamper_resistance_weight * sum(weights)
    control.max_steps = tar.max_steps * passes // 2 if equal_passes else tar.max_steps
    return control, [Adversary("none", "forget", num_steps=0, batch_size=32)]


def demo_suite() -> list[Adversary]:
    """Returns the demo's attacks: forget only, a balanced mix, retain→forget, and LoRA on the mix."""
    common = {"num_steps": 200, "batch_size": 32, "learning_rate": 1e-3}
    return [
        Adversary("forget", "attacker", **common),
        Adversary("mix", mixture=ATTACKER_MIX, **common),
        Adversary("retain-forget", "attacker", first_dataset="retain", switch_at=0.4, **common),
        Adversary("lora-8-mix", mixture=ATTACKER_MIX, lora_r=8, **{**common, "learning_rate": 2e-3}),
    ]
