"""The values that fields of an adversary choose from, a row each.

An objective is a row of `OBJECTIVES` and a case in `red_teaming/trl_attackers.py`. An attack optimizer is a row of `OPTIMIZERS` and a case in `optim/attack_optimizers.py`. A weight edit is a row of `EDITS`
and a case in `red_teaming/weight_edits.py`.
"""

from dataclasses import dataclass

from .options import Choice, Package
from .rules import ABOVE_0, DIRECTIONS, SHARE_ABOVE_0, Rule


BITSANDBYTES = Package("bitsandbytes", "trl-tar[quantization]")
OPTUNA = Package("optuna", "trl-tar[search]")


@dataclass(frozen=True)
class Objective(Choice):
    """What an attack minimises or maximises.

    Args:
        rows (`str`, *optional*, defaults to `"sft"`):
            The objective that its rows are prepared for.
        needs_base (`bool`, *optional*, defaults to `False`):
            The objective reads the public base model.
    """

    rows: str = "sft"
    needs_base: bool = False


OBJECTIVES = {
    "sft": Objective("SFT"),
    "dpo": Objective("DPO, β {beta:g}", rows="dpo"),
    "grpo": Objective(
        "GRPO, reward {reward}, {num_generations} answers of {max_completion_length} tokens",
        in_training=False,
        rows="grpo",
    ),
    # KL of the base's next-token distribution to the model's, on rows as for SFT
    "distillation": Objective("distillation from the base", in_training=False, needs_base=True),
}
OPTIMIZERS = {
    "adamw": Choice(),
    "adamw_8bit": Choice(package=BITSANDBYTES),
    "schedule_free_adamw": Choice(),
    "sgd": Choice(),
    "adadelta": Choice(),
    "adagrad": Choice(),
    "muon": Choice(in_training=False),  # with AdamW for embeddings and vectors
}
ROLES = {"attack": Choice(), "benign": Choice()}
LR_SCHEDULERS = {name: Choice() for name in ("constant", "constant_with_warmup", "cosine", "cosine_with_restarts")}
RESTARTS = 4  # cycles of cosine_with_restarts, our choice: transformers' default of 1 never restarts
QUANTIZATIONS = {"nf4": Choice(package=BITSANDBYTES)}


@dataclass(frozen=True)
class Edit(Choice):
    """A change of the weights without training.

    Args:
        strength (`str`, *optional*):
            What `edit_strength` is, for an edit that takes one.
        allowed (`Callable`, *optional*):
            Strength → remedy, `None` where the strength is allowed.
        needs_base (`bool`, *optional*, defaults to `False`):
            The edit reads the weights of the public base model.
        needs_data (`bool`, *optional*, defaults to `False`):
            The edit reads rows of `dataset` and of `contrast_dataset`.
    """

    strength: str | None = None
    allowed: Rule | None = None
    needs_base: bool = False
    needs_data: bool = False


def _strong(strength: str, allowed: Rule, needs_base: bool = False) -> Edit:
    return Edit("{edit} {edit_strength:g}", strength=strength, allowed=allowed, needs_base=needs_base)


EDITS = {
    # every matrix rounded to 8 or 4 bits and back
    "int8": Edit("{edit}"),
    "nf4": Edit("{edit}"),
    # the smallest entries of every matrix set to 0
    "prune": _strong("share of each matrix", SHARE_ABOVE_0),
    # Gaussian noise added to every matrix
    "noise": _strong("standard deviation, as a share of the matrix's own", ABOVE_0),
    # a mean of the model's weights and the base's
    "interpolate": _strong("share of the base", SHARE_ABOVE_0, needs_base=True),
    # the largest singular directions of every matrix's difference to the base removed
    "strip_delta": _strong(
        "number of singular directions of each matrix's difference to the base", DIRECTIONS, needs_base=True
    ),
    # directions that tell `dataset` from `contrast_dataset` removed from what writes into the residual stream
    "abliterate": Edit("{edit}", needs_data=True),
}
