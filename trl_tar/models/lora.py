"""LoRA adapters of attacks, and the modules that they are put on."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from peft import LoraConfig, PeftModel
from peft.tuners.tuners_utils import check_target_module_exists
from torch import nn
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary


ROUTERS = {"Llama4Router", "PhimoeTopKRouter"}  # classes that PEFT would adapt as the linear layers they derive from
STATE_SPACE = (
    "A_log",
    "D",
    "conv1d",
)  # parts by which a layer of any Mamba is known: state matrix, skip connection, convolution
READ_BY_KERNELS = ("conv1d", "out_proj")


def lora_config(adversary: Adversary, model: nn.Module | None = None) -> LoraConfig:
    """The configuration of a LoRA attack's adapter, which leaves out what [`left_alone`] names."""
    targets = adversary.lora_target_modules
    return LoraConfig(
        r=adversary.lora_r,
        lora_alpha=adversary.lora_alpha,
        lora_dropout=adversary.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=(left_alone(model) or None) if model is not None else None,
        use_dora=adversary.use_dora,
        task_type="CAUSAL_LM",
    )


def left_alone(model: nn.Module) -> list[str]:
    """The names of modules that an adapter would break, or would not reach.

    Routers of Llama 4 and Phi-MoE are linear layers that return more than their product, and PEFT wraps them as if they
    returned it alone. The kernels of Mamba read the weights of its convolution and of its output past any adapter, which PEFT
    therefore refuses to put there."""
    unwrapped = model.get_base_model() if isinstance(model, PeftModel) else model
    names = []
    for name, module in unwrapped.named_modules():
        if any(parent.__name__ in ROUTERS for parent in type(module).__mro__):  # FSDP2 derives classes of its own
            names.append(name)
        if all(hasattr(module, part) for part in STATE_SPACE):
            names += [f"{name}.{part}" for part in READ_BY_KERNELS if hasattr(module, part)]
    return names


def module_names(model: PreTrainedModel | PeftModel) -> list[str]:
    """The names of all modules that a LoRA attack may target."""
    unwrapped = model.get_base_model() if isinstance(model, PeftModel) else model
    excluded = set(left_alone(model))
    return [name for name, _ in unwrapped.named_modules() if name not in excluded]


def check_lora_targets(modules: Sequence[str], adversaries: Iterable[Adversary]) -> None:
    """Raises `ValueError` for a LoRA attack with a target that none of the model's `modules`, given by name, matches."""
    for adversary in adversaries:
        targets = adversary.lora_target_modules
        if adversary.lora_r is None or targets == "all-linear":
            continue
        for target in [targets] if isinstance(targets, str) else targets:
            config = lora_config(replace(adversary, lora_target_modules=target if target is targets else (target,)))
            if not any(check_target_module_exists(config, name) for name in modules):
                raise ValueError(
                    f"Adversary {adversary.name!r} has lora_target_modules={targets!r}, and {target!r} matches no module "
                    "of the model that takes an adapter. Name some of model.named_modules(), or use 'all-linear'."
                )
