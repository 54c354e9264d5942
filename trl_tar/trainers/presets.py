"""Named settings of [`TARConfig`]: the paper's, its released code's, and those of continued attacks."""

from typing import Any


# Name → fields of TARConfig that tell the methods apart. All presets set the same fields, so that none changes with a default.
# Learning rates, sizes of batches and numbers of steps depend on model and data, and the length of an attack is its adversary's.
PRESETS: dict[str, dict[str, Any]] = {
    # https://huggingface.co/papers/2408.00761: Eq. 2, the mean over an attack's steps of Algorithm 1, and λ_TR = 4. Where it
    # leaves a value open, that of the released runs
    "paper": {
        "tamper_resistance_loss": "entropy",
        "tamper_resistance_weight": 4.0,
        "tamper_resistance_max_grad_norm": 0.0,
        "tamper_resistance_interval": 4,
        "inner_weighting": "uniform",
        "inner_weighting_rate": 1 / 16,
        "retain_weight": 1.0,
        "lm_weight": 1.0,
        "representation_weight": 1.0,
        "representation_loss": "l2_squared",
        "kl_weight": 0.0,
        "kl_temperature": 1.0,
        "adversaries_per_step": 1,
        "steps_per_visit": None,
        "optim": "schedule_free_adamw",
        "max_grad_norm": 0.0,
    },
    # the runs on biosecurity and cybersecurity of https://github.com/rishub-tamirisa/tamper-resistance, in which weights of the
    # evaluations sum to 4.438 at K = 64, so that λ_TR acts as 17.75
    "released": {
        "tamper_resistance_loss": "entropy",
        "tamper_resistance_weight": 4.0,
        "tamper_resistance_max_grad_norm": 0.0,
        "tamper_resistance_interval": 4,
        "inner_weighting": "exponential",
        "inner_weighting_rate": 1 / 16,
        "retain_weight": 1.0,
        "lm_weight": 1.0,
        "representation_weight": 1.0,
        "representation_loss": "l2",
        "kl_weight": 0.0,
        "kl_temperature": 1.0,
        "adversaries_per_step": 1,
        "steps_per_visit": None,
        "optim": "schedule_free_adamw",
        "max_grad_norm": 0.0,
    },
    # anchors that fit any model, and no cross-entropy, as D_retain's own text is not what the model should come to say
    "continued": {
        "tamper_resistance_loss": "entropy",
        "tamper_resistance_weight": 4.0,
        "tamper_resistance_max_grad_norm": 0.0,
        "tamper_resistance_interval": 4,
        "inner_weighting": "uniform",
        "inner_weighting_rate": 1 / 16,
        "retain_weight": 1.0,
        "lm_weight": 0.0,
        "representation_weight": 4.0,
        "representation_loss": "relative",
        "kl_weight": 4.0,
        "kl_temperature": 2.0,
        "adversaries_per_step": 1,
        "steps_per_visit": 8,
        "optim": "schedule_free_adamw",
        "max_grad_norm": 1.0,
    },
}


def preset_settings(name: str) -> dict[str, Any]:
    """Returns the settings of a preset, fields of [`TARConfig`]; raises `ValueError` for a name that is none."""
    if name not in PRESETS:
        raise ValueError(f"There is no preset {name!r}. Use one of {', '.join(map(repr, PRESETS))}.")
    return {**PRESETS[name]}
