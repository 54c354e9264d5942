"""Settings of the knowledge recipe on its embedded world, as the demo, the evidence and `testbed_knowledge.yaml` have them."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from ..adversaries.adversary import Adversary
from ..adversaries.suites import ATTENTION
from ..adversaries.sweeps import sweep
from ..losses import inner_weight
from ..testbed.knowledge.attack_data import prompt_templates
from ..testbed.knowledge.world import KnowledgeWorld
from ..trainers.tar_config import TARConfig
from .arguments import TAR
from .knowledge import KnowledgeArguments


ATTACKER_MIX = {"attacker": 0.5, "retain": 0.5}  # entities that training never simulated, and D_retain
MIX = {"forget": 0.5, "retain": 0.5}  # the same balance, of what training simulates
LONGEST = 512  # steps of the longest simulated attack, and of most of the red team's
BEYOND = (
    2 * LONGEST
)  # of the red team's longest: half of it is beyond all that training saw, as `REQUIRED_STRENGTH` asks


def knowledge_arguments(world: int = 0, workers: int = 2) -> KnowledgeArguments:
    """Returns the phases and the settings of the red team, whose attacks and A_train are given as lists."""
    # an evaluation of all metrics costs as much as 20 steps, so that the default's 17 would be two fifths of an attack
    steps = [0, 20, 50, 100, 200, 300, 400]
    return KnowledgeArguments(
        world=str(world), phases=[TAR], reference="base", attack_workers=workers, attack_evaluation_steps=steps
    )


def tar_config(output_dir: Path, seed: int = 0) -> TARConfig:
    """Returns the settings of TAR with continued attacks: a model of 0.2 M parameters, trained on the CPU.

    They were chosen on worlds 0 and 301. The base is anchored by its hidden states and by its output, on 128 rows of D_retain a step."""
    return TARConfig(
        str(output_dir),
        seed=seed,
        tamper_resistance_loss="entropy",
        tamper_resistance_weight=4.0,
        # about the longest that it has while attacks are held
        tamper_resistance_max_grad_norm=30.0,
        inner_weighting="uniform",
        lm_weight=0.0,
        representation_weight=4.0,
        representation_loss="relative",
        kl_weight=12.0,
        kl_temperature=2.0,
        steps_per_visit=8,
        num_attackers=6,
        # nats, of log|V| = 6.4
        attack_length_threshold=-5.0,
        benign_weight=6.0,
        benign_kl_weight=6.0,
        max_steps=3000,
        learning_rate=2e-3,
        max_grad_norm=1.0,
        warmup_steps=20,
        tamper_resistance_batch_size=32,
        per_device_train_batch_size=128,
        max_length=32,
        use_cpu=True,
        bf16=False,
        logging_steps=10,
        save_steps=200,
        save_total_limit=1,
        report_to="none",
    )


def training_adversaries() -> list[Adversary]:
    """Returns A_train: balanced mixes (twice as often as the others), forget and retain→forget, at three learning rates, two
    fifths of them LoRA of three ranks or on attention alone; and honest users, two visits in five once the longest attack is reached."""
    common = {"num_steps": LONGEST, "batch_size": 32}
    kinds = [
        Adversary("mix", mixture=MIX, weight=2.0, **common),
        Adversary("forget", "forget", **common),
        Adversary("retain-forget", "forget", first_dataset="retain", **common),
    ]
    rates, ranks = [2e-4, 1e-3, 2e-3], [8, 32, 64]
    adversaries = []
    for kind in kinds:
        # 2/3 of the kind's own weight: a third of it on attention alone, two thirds on all layers at three ranks
        lora = round(kind.weight * 2 / 9, 4)
        everywhere = replace(kind, name=f"lora-{kind.name}", weight=round(kind.weight * 4 / 27, 4))
        attention = replace(
            kind, name=f"lora-attention-{kind.name}", weight=lora, lora_r=32, lora_target_modules=ATTENTION
        )
        adversaries += [
            *sweep(kind, learning_rate=rates),
            *sweep(everywhere, learning_rate=rates, lora_r=ranks),
            *sweep(attention, learning_rate=rates),
        ]
    # The attackers weigh 20 together. How fast somebody learns is decided in the first steps, so most are brief; what is kept is
    # lost late, so others are a little longer than the gate's task. Rates are the gate's and half of it.
    brief = Adversary("benign-brief", "benign_tasks", role="benign", num_steps=16, batch_size=32, weight=4.0)
    long = Adversary("benign", "benign_tasks", role="benign", num_steps=128, batch_size=32, weight=8 / 3)
    return [*adversaries, *(a for honest in (brief, long) for a in sweep(honest, learning_rate=[5e-4, 1e-3]))]


def control_without_adversary(
    tar: TARConfig, adversaries: Sequence[Adversary], equal_passes: bool = False
) -> tuple[TARConfig, list[Adversary]]:
    """TAR with K = 0: the tamper-resistance loss at θ, with no attack, and the same total weight over a training.

    Args:
        tar ([`TARConfig`]):
            Settings of the TAR that it is the control of.
        adversaries (`Sequence[Adversary]`):
            A_train of that TAR. Its attacks are continued, or else all of one length.
        equal_passes (`bool`, *optional*, defaults to `False`):
            As many forward/backward passes as TAR, in place of as many outer steps.

    Returns:
        `tuple[TARConfig, list[Adversary]]`: settings of the control, and its A_train.
    """
    steps = tar.steps_per_visit or adversaries[0].num_steps  # of an attack in an outer step
    interval = tar.tamper_resistance_interval
    evaluated = range(interval - 1, steps, interval)
    weights = [inner_weight(k, steps, interval, tar.inner_weighting, tar.inner_weighting_rate) for k in evaluated]
    control, none = copy.copy(tar), [Adversary("none", "forget", num_steps=0, batch_size=32)]
    control.steps_per_visit = control.attack_length_threshold = None
    # honest users' visits have no L_TR
    attacks = sum(adversary.weight for adversary in adversaries if adversary.role == "attack")
    share = attacks / sum(adversary.weight for adversary in adversaries)
    control.tamper_resistance_weight = tar.tamper_resistance_weight * sum(weights) * share
    if equal_passes:
        control.max_steps = int(tar.max_steps * passes_of_a_step(tar, adversaries) // passes_of_a_step(control, none))
    return control, none


def passes_of_a_step(tar: TARConfig, adversaries: Sequence[Adversary]) -> Fraction:
    """Returns the forward and backward passes of an outer step, the mean over A_train by weight: one for D_retain, and for each
    attack its steps and what it is judged by. An honest user is judged by two losses; while the longest attack still grows, there are
    fewer of them, so that the mean is a little too high."""
    weights = [Fraction(adversary.weight) for adversary in adversaries]
    visits = [_passes_of_a_visit(tar, adversary) for adversary in adversaries]
    total = sum((weight * passes for weight, passes in zip(weights, visits, strict=True)), Fraction(0))
    return tar.adversaries_per_step * total / sum(weights, Fraction(0)) + 1


def _passes_of_a_visit(tar: TARConfig, adversary: Adversary) -> int:
    steps = min(tar.steps_per_visit or adversary.num_steps, adversary.num_steps)
    judged = steps // tar.tamper_resistance_interval if steps else 1  # without an attack, once at θ
    return steps + judged * (2 if adversary.role == "benign" else 1)


def demo_suite(world: int = 0) -> list[Adversary]:
    """Returns the demo's attacks, which are all that `REQUIRED_STRENGTH` asks for but a search: forget only, a balanced mix,
    retain→forget, LoRA of two ranks and a soft prompt on the mix, harmless data alone, rounded weights and two prompt templates,
    whose answered examples are of that world."""
    common = {"num_steps": LONGEST, "batch_size": 32, "learning_rate": 1e-3}
    lora = {"mixture": ATTACKER_MIX, **common, "learning_rate": 2e-3}
    return [
        Adversary("forget", "attacker", **common),
        Adversary("mix", mixture=ATTACKER_MIX, **{**common, "num_steps": BEYOND}),
        Adversary("retain-forget", "attacker", first_dataset="retain", switch_at=0.4, **common),
        Adversary("lora-8-mix", lora_r=8, **lora),
        Adversary("lora-64-mix", lora_r=64, **lora),
        # the rate of `input_suite`: embeddings of a few tokens need longer steps
        Adversary("soft-mix", num_virtual_tokens=32, **{**lora, "learning_rate": 0.03}),
        Adversary("retain", "retain", **common),
        Adversary("int8", edit="int8", num_steps=0),
        *(
            Adversary(f"prompt-{name}", prompt_template=text, num_steps=0)
            for name, text in prompt_templates(KnowledgeWorld(world)).items()
        ),
    ]
