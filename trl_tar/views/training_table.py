"""What the tables of a card say: what an attack is, how the model was made, and what nobody tried on it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..adversaries.in_words import NONE
from ..losses import TAMPER_RESISTANCE_LOSSES
from ..report.report import Report
from ..report.wanted_attacks import described_adversaries


LATER = {  # fields that older records do not have
    "λ_LM": "lm_weight",
    "λ_KL": "kl_weight",
    "temperature of L_KL": "kl_temperature",
    "norm of g_TR at most": "tamper_resistance_max_grad_norm",
}
OF_CONTINUED_ATTACKS = {  # where an attack is made in visits
    "steps of a visit": "steps_per_visit",
    "continued attackers": "num_attackers",
    "L_TR at which longer attacks begin": "attack_length_threshold",
}
OF_HONEST_USERS = {  # where they are simulated
    "λ of what honest users learn": "benign_weight",
    "λ of what honest users keep": "benign_kl_weight",
}
LABELS = (  # rows of the table of settings
    "loss",
    "λ_TR",
    "λ_retain",
    "λ_LM",
    "λ_rep",
    "anchor L_rep",
    "λ_KL",
    "temperature of L_KL",
    "norm of g_TR at most",
    *OF_CONTINUED_ATTACKS,
    *OF_HONEST_USERS,
    "interval of L_TR, in steps of the attack",
    "weighting of L_TR along the attack",
    "adversaries a step",
    "β",
    "optimizer",
    "learning rate",
    "schedule",
    "steps",
    "batch on a device",
    "batch of D_TR",
    "batch of what is hidden",
    "seed",
)
DEFAULT = "default"  # in place of a setting that nobody gave


def not_tried(report: Report) -> list[str]:
    """Families of attacks of which the report has no completed one."""
    finished = {attack.adversary for attack in report.attacks if attack.finished}
    described = [adversary for name, adversary in described_adversaries(report.config).items() if name in finished]
    if not described:
        return []
    tried = [part for adversary in described for part in adversary.sequence]
    families = {
        "preference training (DPO)": any(a.objective == "dpo" and a.num_steps for a in tried),
        "reinforcement learning (GRPO)": any(a.objective == "grpo" and a.num_steps for a in tried),
        "LoRA": any(a.lora_r for a in tried),
        "training on quantised weights (QLoRA)": any(a.quantization for a in tried),
        "soft prompts": any(a.num_virtual_tokens for a in tried),
        "edits of the weights without training, such as pruning, noise or quantisation": any(
            a.edit not in (None, "abliterate") for a in tried
        ),
        "abliteration": any(a.edit == "abliterate" for a in tried),
        "prompts and jailbreaks": any(a.prompt_template for a in tried),
    }
    longest = max(sum(part.num_steps for part in adversary.sequence) for adversary in described)
    return [*(name for name, seen in families.items() if not seen), f"more than {longest} steps"]


def is_complete(phase: Mapping[str, Any]) -> bool:
    """Tells whether all settings of a phase are on record, or only those that were given."""
    return {"optim", "lr_scheduler_type", "adam_epsilon", "seed"} <= set(phase["settings"])


def phase_settings(phases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of settings, each with `label` and a cell for each phase; those that no phase has are left out."""
    cells = [_settings(phase) for phase in phases]
    labels = [label for label in LABELS if any(label in column for column in cells)]
    return [{"label": label, "cells": [column.get(label, NONE) for column in cells]} for label in labels]


def _settings(phase: Mapping[str, Any]) -> dict[str, str]:
    """Label → value of one phase."""
    settings = {name: value for name, value in phase["settings"].items() if value is not None}
    tar = bool(phase.get("adversaries")) or "tamper_resistance_weight" in settings

    def given(name: str) -> str:
        value = settings.get(name, DEFAULT)
        return f"{value:g}" if isinstance(value, float) else str(value)

    rows = {"loss": given("tamper_resistance_loss") if tar else _loss(settings)}
    if tar:
        rows |= {"λ_TR": given("tamper_resistance_weight"), "λ_retain": given("retain_weight")}
        rows |= {"λ_rep": given("representation_weight"), "anchor L_rep": given("representation_loss")}
        fields = {**LATER, **(OF_CONTINUED_ATTACKS if "steps_per_visit" in settings else {})}
        if any(adversary.get("role") == "benign" for adversary in phase.get("adversaries", ())):
            fields |= OF_HONEST_USERS
        rows |= {label: given(name) for label, name in fields.items() if name in settings}
        rows |= {"interval of L_TR, in steps of the attack": given("tamper_resistance_interval")}
        rows |= {
            "adversaries a step": given("adversaries_per_step"),
            "weighting of L_TR along the attack": given("inner_weighting"),
        }
    if "beta" in settings and (not tar or _reads_pairs(rows["loss"])):
        rows["β"] = given("beta")
    counted = settings.get("max_steps")
    by_epochs = isinstance(counted, int) and counted <= 0
    steps = f"{given('num_train_epochs')} epochs" if by_epochs else given("max_steps")
    rows |= {"optimizer": given("optim"), "learning rate": given("learning_rate")}
    rows |= {"schedule": given("lr_scheduler_type"), "steps": steps, "batch on a device": _batch(given, settings)}
    if tar:
        rows["batch of D_TR"] = given("tamper_resistance_batch_size")
    elif "forget_batch_size" in settings:
        rows["batch of what is hidden"] = given("forget_batch_size")
    return rows | {"seed": str(phase.get("seed", given("seed")))}


def _reads_pairs(loss: str) -> bool:
    """Tells whether L_TR is a loss on preference pairs, which has a β."""
    return loss in TAMPER_RESISTANCE_LOSSES and TAMPER_RESISTANCE_LOSSES[loss].takes_pairs


def _loss(settings: Mapping[str, Any]) -> str:
    """The loss of a phase that is not TAR. A record of before trainers wrote their `method` has the fields of its own."""
    if "method" in settings:
        return str(settings["method"])
    if {"forget_weight", "forget_batch_size"} & set(settings):
        return "random mapping"
    kinds = settings.get("loss_type", DEFAULT)
    return " + ".join(map(str, kinds)) if isinstance(kinds, list) else str(kinds)


def _batch(given: Any, settings: Mapping[str, Any]) -> str:
    accumulated = settings.get("gradient_accumulation_steps", 1)
    return given("per_device_train_batch_size") + (f" × {accumulated}" if accumulated != 1 else "")
