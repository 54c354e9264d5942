"""An adversary in a few words: computed here once, printed by the card, the report page and the leaderboard."""

from dataclasses import dataclass, fields

from .adversary import Adversary


OBJECTIVES = {"sft": "SFT", "dpo": "DPO", "grpo": "GRPO"}
# fields of an adversary that are told only where they are not the default
SELDOM = ("momentum", "nesterov", "weight_decay", "max_grad_norm")
NONE = "–"


@dataclass(frozen=True)
class AttackInWords:
    """What a table says of an attack; attacks of different kinds differ in some field.

    Args:
        data (`str`):
            Data sets that the attack reads, with the shares of a mixture in per cent; `"none"` where it reads none.
        method (`str`):
            Earlier attack, edit, objective, adapter, optimizer, schedule and prompt template, in this order.
        steps (`str`):
            Optimizer steps × rows of a batch; `"none"` without training.
        learning_rate (`str`):
            Peak learning rate; a dash without training.
    """

    data: str
    method: str
    steps: str
    learning_rate: str


def in_words(adversary: Adversary) -> AttackInWords:
    """Describes an attack, or an adversary of A_train."""
    trained = adversary.num_steps > 0
    return AttackInWords(
        data=_data(adversary),
        method=_method(adversary),
        steps=f"{adversary.num_steps} × {adversary.batch_size}" if trained else "none",
        learning_rate=f"{adversary.learning_rate:g}" if trained else NONE,
    )


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
