"""The variants of the knowledge recipe that the ablation compares, each written as its differences from the recipe."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

from ..adversaries.adversary import Adversary
from ..fingerprints import json_sha256
from ..pipeline.arguments import TAR
from ..pipeline.knowledge import KnowledgeArguments
from ..pipeline.knowledge_world import (
    LONGEST,
    MIX,
    control_without_adversary,
    knowledge_arguments,
    passes_of_a_step,
    tar_config,
    training_adversaries,
)
from ..trainers.recorded_settings import decisive
from ..trainers.tar_config import TARConfig


PHASE_1 = "random_mapping"
PASSES_OF_PHASE_1 = 2  # of a step of random mapping: one for D_retain and one for the hazardous rows


@dataclass(frozen=True)
class Variant:
    """Names what one training has in place of the recipe's settings.

    Args:
        name (`str`):
            Name of its folder, and for the command line.
        words (`str`):
            What tables and figures call it.
        tar, arguments (`dict[str, Any]`, *optional*):
            Fields of [`TARConfig`] and of [`KnowledgeArguments`], with their values.
        adversaries (`Callable`, *optional*):
            A_train of the recipe → its own.
        control (`bool`, *optional*, defaults to `False`):
            The tamper-resistance loss at θ, with no attack: K = 0.
        equal_passes (`bool`, *optional*, defaults to `False`):
            As many forward and backward passes as the recipe, in place of as many outer steps.
    """

    name: str
    words: str
    tar: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    adversaries: Callable[[list[Adversary]], list[Adversary]] = list
    control: bool = False
    equal_passes: bool = False


@dataclass(frozen=True)
class Settings:
    """Holds all that decides one training of a variant.

    Args:
        args ([`KnowledgeArguments`]):
            Phases, reference and red team.
        tar ([`TARConfig`]):
            Settings of TAR.
        adversaries (`list[Adversary]`):
            A_train.
    """

    args: KnowledgeArguments
    tar: TARConfig
    adversaries: list[Adversary]

    @property
    def passes_before(self) -> int:
        """The forward and backward passes of phase 1, 0 without one."""
        return PASSES_OF_PHASE_1 * self.args.safeguard_steps if PHASE_1 in self.args.phases else 0

    @property
    def passes(self) -> Fraction:
        """The forward and backward passes of all phases, those of TAR by the mean over A_train."""
        return self.passes_before + self.tar.max_steps * passes_of_a_step(self.tar, self.adversaries)

    @property
    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights, as JSON."""
        red_team = {"attack_workers"}
        args = {name: value for name, value in asdict(self.args).items() if name not in red_team}
        return {
            "arguments": args,
            "tar": decisive(self.tar.to_dict()),
            "adversaries": {adversary.name: asdict(adversary) for adversary in self.adversaries},
        }

    @property
    def sha256(self) -> str:
        """The hash of those settings without world and seed: two trainings of one variant have the same."""
        content = self.decisive
        for part, name in (("arguments", "world"), ("tar", "seed")):
            content[part].pop(name)
        return json_sha256(content)


def of_length(num_steps: int, adversaries: list[Adversary]) -> list[Adversary]:
    """Returns the adversaries, honest users too, with another number of steps."""
    return [replace(adversary, num_steps=num_steps) for adversary in adversaries]


def of_longer_attacks(adversaries: list[Adversary]) -> list[Adversary]:
    """Returns the adversaries with attacks of 2,048 steps at most, which is as long as any that is reported; honest users keep
    their length."""
    return [replace(a, num_steps=4 * LONGEST) if a.role == "attack" else a for a in adversaries]


def attacks_alone(adversaries: list[Adversary]) -> list[Adversary]:
    """Returns the adversaries without honest users."""
    return [adversary for adversary in adversaries if adversary.role == "attack"]


def of_the_paper(_: list[Adversary]) -> list[Adversary]:
    """Returns A_train of `testbed_knowledge_paper.yaml`, in its order: four kinds at three learning rates."""
    common = {"num_steps": 32, "batch_size": 32}
    kinds = [
        Adversary("mix", mixture=MIX, **common),
        Adversary("retain-forget", "forget", first_dataset="retain", **common),
        *(Adversary(f"lora-{rank}-mix", mixture=MIX, lora_r=rank, weight=0.5, **common) for rank in (8, 32)),
    ]
    rates = [2e-4, 1e-3, 2e-3]
    return [replace(kind, name=f"{kind.name}-{rate:g}", learning_rate=rate) for rate in rates for kind in kinds]


FRESH = {"steps_per_visit": None, "attack_length_threshold": None}
RANDOM_MAPPING = {
    "phases": [PHASE_1, TAR],
    "safeguard_steps": 600,
    "safeguard_learning_rate": 3e-4,
    "safeguard_warmup_steps": 50,
    "safeguard_batch_size": 64,
    "safeguard_forget_batch_size": 32,
}
PAPERS_ANCHOR = {"representation_loss": "l2_squared", "representation_weight": 1.0, "kl_weight": 0.0}
PAPER: dict[str, Any] = {  # of testbed_knowledge_paper.yaml
    **FRESH,
    **PAPERS_ANCHOR,
    "lm_weight": 1.0,
    "tamper_resistance_weight": 8.0,
    "tamper_resistance_max_grad_norm": 0.0,
    "inner_weighting": "exponential",
    "max_steps": 300,
    "learning_rate": 6e-2,
    "max_grad_norm": 100.0,
    "adam_epsilon": 0.3,
    # not read where nothing is anchored at the output and nobody is honest
    "kl_temperature": 1.0,
    "benign_weight": 4.0,
    "benign_kl_weight": 4.0,
}
_PAPERS_WAY: dict[str, Any] = {
    "arguments": {**RANDOM_MAPPING, "reference": "start"},
    "tar": PAPER,
    "adversaries": of_the_paper,
}
RECIPE = Variant("continued", "continued attacks, the recipe")
_ALL = (
    RECIPE,
    Variant("without_honest_users", "without honest users", adversaries=attacks_alone),
    Variant("k0_equal_passes", "K = 0, equal passes", control=True, equal_passes=True),
    Variant("k0_equal_steps", "K = 0, equal steps", control=True),
    Variant("fresh_8", "fresh, K = 8", FRESH, adversaries=partial(of_length, 8), equal_passes=True),
    Variant("fresh_32", "fresh, K = 32", FRESH, adversaries=partial(of_length, 32), equal_passes=True),
    Variant("paper", "paper's preset", **_PAPERS_WAY),
    Variant("paper_equal_passes", "paper's preset, equal passes", **_PAPERS_WAY, equal_passes=True),
    Variant("phase_1_first", "random mapping first", arguments=RANDOM_MAPPING, equal_passes=True),
    Variant("relative_anchor", "relative anchor alone", {"kl_weight": 0.0}),
    Variant("kl_anchor", "KL anchor alone", {"representation_weight": 0.0}),
    Variant("temperature_1", "KL anchor at temperature 1", {"kl_temperature": 1.0}),
    Variant("l2_anchor", "L2 anchor alone (paper's)", PAPERS_ANCHOR),
    Variant("with_cross_entropy", "with cross-entropy", {"lm_weight": 1.0}),
    Variant("not_clipped", "g_TR not clipped", {"tamper_resistance_max_grad_norm": 0.0}),
    Variant("no_curriculum", "no curriculum", {"attack_length_threshold": None}),
    Variant("longer_curriculum", "longer curriculum", adversaries=of_longer_attacks),
)
VARIANTS = {variant.name: variant for variant in _ALL}


def settings_of(variant: Variant, world: int, folder: Path, seed: int = 0, workers: int = 1) -> Settings:
    """Returns the recipe's settings with the differences of the variant.

    Args:
        variant ([`Variant`]):
            What differs.
        world (`int`), seed (`int`, *optional*, defaults to `0`):
            Seeds of the world and of the training.
        folder (`Path`):
            Folder of the models of that world.
        workers (`int`, *optional*, defaults to `1`):
            Attacks that run at the same time.
    """
    recipe = Settings(knowledge_arguments(world, workers), tar_config(folder, seed), training_adversaries())
    if variant.control:
        control = control_without_adversary(recipe.tar, recipe.adversaries, variant.equal_passes)
        return Settings(recipe.args, *control)
    args, tar = replace(recipe.args, **variant.arguments), tar_config(folder, seed)
    for name, value in variant.tar.items():
        setattr(tar, name, value)
    settings = Settings(args, tar, variant.adversaries(recipe.adversaries))
    if variant.equal_passes:
        left = recipe.passes - settings.passes_before
        tar.max_steps = math.floor(left / passes_of_a_step(tar, settings.adversaries))
    return settings


def differences(settings: Settings, recipe: Settings) -> dict[str, dict[str, Any]]:
    """Returns which fields have other values than the recipe's, with those values; of A_train, the adversaries that the recipe
    does not have in this form."""
    own, others = settings.decisive, recipe.decisive
    return {part: {name: value for name, value in own[part].items() if value != others[part].get(name)} for part in own}
