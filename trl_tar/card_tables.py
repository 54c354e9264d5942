"""What the tables of a card say: what an attack is, how the model was made, and what nobody tried on it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from .adversary import Adversary
from .report import Report


OBJECTIVES = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}
# fields of an adversary that are told only where they are not the default
SELDOM = ("momentum", "nesterov", "weight_decay", "max_grad_norm")
LABELS = (  # rows of the table of settings
    "loss",
    "λ_TR",
    "λ_retain",
    "λ_rep",
    "anchor L_rep",
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
NONE = "–"


def attack_cells(adversary: Adversary) -> dict[str, str]:
    """One attack, or adversary of A_train, in the cells of a table: attacks of different kinds differ in some cell."""
    steps = f"{adversary.num_steps} × {adversary.batch_size}" if adversary.num_steps else "none"
    return {
        "name": adversary.name,
        "data": _data(adversary),
        "method": _method(adversary),
        "steps": steps,
        "learning_rate": f"{adversary.learning_rate:g}" if adversary.num_steps else NONE,
    }


def _data(adversary: Adversary) -> str:
    if not adversary.needs_data:
        return "none"
    if adversary.mixture is not None:
        total = sum(adversary.mixture.values())
        return " + ".join(f"{_percent(share / total)} {name}" for name, share in adversary.mixture.items())
    data = str(adversary.dataset)
    if adversary.edit == "abliterate":
        data += f" against {adversary.contrast_dataset}"
    if adversary.first_dataset is None:
        return data
    switch = "drawn from Beta(6, 3)" if adversary.switch_at == "beta" else f"at {_percent(float(adversary.switch_at))}"
    return f"{adversary.first_dataset} → {data} (switch {switch})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _method(adversary: Adversary) -> str:
    """Edit, objective, adapter, optimizer and schedule; of what is seldom changed, what was."""
    parts = [] if adversary.after is None else [f"{adversary.after.name}, and then"]
    if adversary.edit is not None:
        parts.append(adversary.edit + ("" if adversary.edit_strength is None else f" {adversary.edit_strength:g}"))
    if adversary.num_steps:
        parts += [*_trained(adversary), *_seldom(adversary)]
    if adversary.prompt_template is not None:
        parts.append(f"prompt “{adversary.prompt_template}”")
    return ", ".join(parts) or "no attack"


def _trained(adversary: Adversary) -> list[str]:
    parts = [OBJECTIVES[adversary.objective]]
    if adversary.objective == "dpo":
        parts.append(f"β {adversary.beta:g}")
    if adversary.objective == "grpo":
        parts.append(
            f"reward {adversary.reward}, {adversary.num_generations} answers of {adversary.max_completion_length} tokens"
        )
    if adversary.lora_r is not None:
        name = "DoRA" if adversary.use_dora else "LoRA"
        parts.append(f"{name} r={adversary.lora_r}" + _other_than_usual(adversary))
    if adversary.quantization is not None:
        parts.append(f"base in {adversary.quantization}")
    if adversary.num_virtual_tokens is not None:
        parts.append(f"soft prompt of {adversary.num_virtual_tokens} tokens")
    if adversary.optimizer != "adamw":
        parts.append(adversary.optimizer)
    if adversary.lr_scheduler != "constant":
        warmup = f" with {adversary.warmup_steps} warm-up steps" if adversary.warmup_steps else ""
        parts.append(f"{adversary.lr_scheduler.replace('_', ' ')}{warmup}")
    return parts


def _other_than_usual(adversary: Adversary) -> str:
    """Of an adapter."""
    assert adversary.lora_r is not None
    targets = adversary.lora_target_modules
    others = [
        f"α={adversary.lora_alpha}" if adversary.lora_alpha != 2 * adversary.lora_r else "",
        f"dropout {adversary.lora_dropout:g}" if adversary.lora_dropout else "",
        f"on {targets if isinstance(targets, str) else ' '.join(targets)}" if targets != "all-linear" else "",
    ]
    told = " ".join(each for each in others if each)
    return f" ({told})" if told else ""


def _seldom(adversary: Adversary) -> list[str]:
    defaults = {field.name: field.default for field in fields(Adversary)}
    given = {name: getattr(adversary, name) for name in SELDOM}
    return [f"{name.replace('_', ' ')} {value:g}" for name, value in given.items() if value != defaults[name]]


def not_tried(report: Report) -> list[str]:
    """Families of attacks of which the report has no completed one."""
    finished = {attack.adversary for attack in report.attacks if attack.finished}
    described = [Adversary(**each) for each in report.config.get("adversaries", []) if each["name"] in finished]
    if not described:
        return []
    tried = [each for adversary in described for each in adversary.sequence]
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
    longest = max(sum(each.num_steps for each in adversary.sequence) for adversary in described)
    return [*(name for name, seen in families.items() if not seen), f"more than {longest} steps"]


def is_complete(phase: Mapping[str, Any]) -> bool:
    """Whether all settings of a phase are on record, or only those that were given."""
    return {"optim", "lr_scheduler_type", "adam_epsilon", "seed"} <= set(phase["settings"])


def phase_settings(phases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table of settings, each with `label` and a cell for each phase; those that no phase has are left out."""
    cells = [_settings(phase) for phase in phases]
    labels = [label for label in LABELS if any(label in each for each in cells)]
    return [{"label": label, "cells": [each.get(label, NONE) for each in cells]} for label in labels]


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
        rows |= {"interval of L_TR, in steps of the attack": given("tamper_resistance_interval")}
        rows |= {
            "adversaries a step": given("adversaries_per_step"),
            "weighting of L_TR along the attack": given("inner_weighting"),
        }
    if "beta" in settings and (rows["loss"] == "dpo" or not tar):
        rows["β"] = given("beta")
    steps = given("max_steps") if settings.get("max_steps", 1) > 0 else f"{given('num_train_epochs')} epochs"
    rows |= {"optimizer": given("optim"), "learning rate": given("learning_rate")}
    rows |= {"schedule": given("lr_scheduler_type"), "steps": steps, "batch on a device": _batch(given, settings)}
    if tar:
        rows["batch of D_TR"] = given("tamper_resistance_batch_size")
    elif "forget_batch_size" in settings:
        rows["batch of what is hidden"] = given("forget_batch_size")
    return rows | {"seed": str(phase.get("seed", given("seed")))}


def _loss(settings: Mapping[str, Any]) -> str:
    """Of a phase that is not TAR."""
    if {"forget_weight", "forget_batch_size"} & set(settings):
        return "random mapping"
    kinds = settings.get("loss_type", DEFAULT)
    return kinds if isinstance(kinds, str) else " + ".join(map(str, kinds))


def _batch(given: Any, settings: Mapping[str, Any]) -> str:
    accumulated = settings.get("gradient_accumulation_steps", 1)
    return given("per_device_train_batch_size") + (f" × {accumulated}" if accumulated != 1 else "")
