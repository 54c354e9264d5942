"""An adversary in a few words: computed here once, printed by the card, the report page and the leaderboard."""

from dataclasses import dataclass

from .adversary import Adversary
from .mixtures import normalised
from .options import Concept, in_phrases


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
        return " + ".join(f"{_percent(share)} {name}" for name, share in normalised(adversary.mixture).items())
    data = str(adversary.dataset)
    if adversary.contrast_dataset is not None:
        data += f" against {adversary.contrast_dataset}"
    if adversary.first_dataset is None:
        return data
    switch = "drawn from Beta(6, 3)" if adversary.switch_at == "beta" else f"at {_percent(float(adversary.switch_at))}"
    return f"{adversary.first_dataset} → {data} (switch {switch})"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _method(adversary: Adversary) -> str:
    parts = [] if adversary.after is None else [f"{adversary.after.name}, and then"]
    parts += in_phrases(adversary, Concept.EDIT)
    if adversary.custom is not None:
        parts += in_phrases(adversary, Concept.CUSTOM)
    elif adversary.num_steps:
        parts += [
            *in_phrases(adversary, Concept.OBJECTIVE),
            *_lora(adversary),
            *in_phrases(adversary, Concept.ADAPTER),
            *in_phrases(adversary, Concept.OPTIMIZATION),
            *_schedule(adversary),
            *in_phrases(adversary, Concept.STEP),
        ]
    parts += in_phrases(adversary, Concept.PROMPT)
    return ", ".join(parts) or "no attack"


def _lora(adversary: Adversary) -> list[str]:
    """The rank, and in brackets each setting of the adapter that is not the usual one; nothing without LoRA."""
    if adversary.lora_r is None:
        return []
    targets = adversary.lora_target_modules
    unusual = [
        f"α={adversary.lora_alpha}" if adversary.lora_alpha != 2 * adversary.lora_r else "",
        f"dropout {adversary.lora_dropout:g}" if adversary.lora_dropout else "",
        f"on {targets if isinstance(targets, str) else ' '.join(targets)}" if targets != "all-linear" else "",
    ]
    settings = " ".join(filter(None, unusual))
    return [f"{'DoRA' if adversary.use_dora else 'LoRA'} r={adversary.lora_r}" + (f" ({settings})" if settings else "")]


def _schedule(adversary: Adversary) -> list[str]:
    if adversary.lr_scheduler == "constant":
        return []
    warmup = f" with {adversary.warmup_steps} warm-up steps" if adversary.warmup_steps else ""
    return [f"{adversary.lr_scheduler.replace('_', ' ')}{warmup}"]
