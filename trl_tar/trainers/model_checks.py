"""Checks that attacks can be simulated on a model, its adapters and its launch."""

from collections.abc import Iterable

import torch
from peft import PeftModel
from transformers import PreTrainedModel, Trainer

from ..adversaries.adversary import Adversary
from ..models.adapters import not_added_to_the_weights
from ..models.errors import reason
from ..models.lora import check_lora_targets, module_names
from ..models.sharing import check_sharing
from ..simulation.restored import restored
from .tar_config import TARConfig


# for a model that is given as a path; TRL would split it over all GPUs that the process sees
MODEL_INIT_KWARGS = {"dtype": "float32", "device_map": None}


def check_weights(model: PreTrainedModel | PeftModel, bfloat16: bool = False) -> None:
    """Raises `ValueError` for weights that cannot be stepped and put back. `bfloat16` says that this precision is allowed."""
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "The model is quantised, and its weights take no gradient. Load it without quantization_config."
        )
    places = sorted({str(place) for place in getattr(model, "hf_device_map", {}).values()})
    if len(places) > 1:
        raise ValueError(
            f"The model was split over {', '.join(places)} by its device_map, and a process attacks on one device. Load it "
            'with device_map={"": 0}, and start several processes with accelerate launch.'
        )
    missing = next((name for name, p in model.named_parameters() if p.is_meta), None)
    if missing is not None:
        raise ValueError(
            f"Parameter {missing!r} has no content on this process: it is on the meta device. Load the model on every process, "
            "with fsdp_cpu_ram_efficient_loading: false."
        )
    if not isinstance(model, PeftModel):  # whose file holds the adapter alone
        check_sharing(model)
    elif model.active_peft_config.task_type != "CAUSAL_LM":
        raise ValueError(
            f"`peft_config` has task_type={model.active_peft_config.task_type!r}, and PEFT would write a module to import into the "
            "saved adapter, which no red team loads. Give task_type='CAUSAL_LM'."
        )
    allowed = [torch.float32, torch.float64] + [torch.bfloat16] * bfloat16
    low = next((name for name, p in model.named_parameters() if p.dtype not in allowed), None)
    if low is not None:
        dtype = model.get_parameter(low).dtype
        raise ValueError(
            f"Parameter {low!r} is {dtype}: rounding swallows most of each step in low precision. Load the model with "
            "dtype=torch.float32 and set bf16=True for autocast."
        )


def check_launch(trainer: Trainer) -> None:
    """Raises `ValueError` where `accelerate launch` shards parameters or rows in a way that the configuration cannot show."""
    name, accelerator = type(trainer).__name__, trainer.accelerator
    if trainer.is_deepspeed_enabled:
        raise ValueError(
            f"{name} was launched with DeepSpeed, whose backward pass steps the optimizer. Use FSDP2 or DDP."
        )
    if trainer.is_fsdp_enabled and accelerator.state.fsdp_plugin.fsdp_version != 2:
        raise ValueError(
            f"{name} was launched with FSDP {accelerator.state.fsdp_plugin.fsdp_version}, which flattens parameters. Set "
            "fsdp_version: 2."
        )
    if accelerator.parallelism_config is not None:
        raise ValueError(f"{name} got a `parallelism_config`, which shards rows. Use data parallelism alone.")


def check_bfloat16(
    model: PreTrainedModel | PeftModel, args: TARConfig, adversaries: Iterable[Adversary], sharded: bool
) -> None:
    """Raises `ValueError` for weights in bfloat16 that cannot be stepped as if they were in float32."""
    low = next((name for name, p in model.named_parameters() if p.dtype == torch.bfloat16), None)
    if low is None:
        return
    remedy = "Load the model with dtype=torch.float32"
    if not args.bf16:
        raise ValueError(
            f"Parameter {low!r} is torch.bfloat16 and TARConfig has bf16=False, where losses are sums of 8 bits. {remedy}, or "
            "set bf16=True."
        )
    if sharded:
        raise ValueError(
            f"Parameter {low!r} is torch.bfloat16, and FSDP2 shards the model, whose parts cannot be stepped in float32 one "
            f"at a time. {remedy}."
        )
    for adversary in adversaries:
        if adversary.optimizer == "schedule_free_adamw" and adversary.lora_r is None:
            raise ValueError(
                f"Adversary {adversary.name!r} has optimizer='schedule_free_adamw', and parameter {low!r} is torch.bfloat16: "
                f"each judgement would round its weights. {remedy}, or use another optimizer."
            )


def check_8bit(model: PreTrainedModel | PeftModel, adversaries: Iterable[Adversary], sharded: bool) -> None:
    """Raises `ValueError` for an attack by an 8-bit optimizer that cannot step the model's parameters."""
    for adversary in adversaries:
        if adversary.optimizer != "adamw_8bit":
            continue
        attack = f"Adversary {adversary.name!r} has optimizer='adamw_8bit'"
        if sharded:
            raise ValueError(f"{attack}, and FSDP2 shards the model, whose parts it cannot step. Use 'adamw'.")
        double = next((name for name, p in model.named_parameters() if p.dtype == torch.float64), None)
        if double is not None:
            raise ValueError(f"{attack}, and parameter {double!r} is torch.float64, which it cannot step. Use 'adamw'.")


def check_memory_modes(args: TARConfig, adversaries: Iterable[Adversary], sharded: bool) -> None:
    """Raises `ValueError` where `offload` or `optimizer_in_backward` cannot do what they say."""
    if args.offload and sharded:
        raise ValueError(
            "TARConfig has offload=True, and FSDP2 shards the model: its optimizer state stays in the shards. Leave offload "
            "out, or launch without FSDP."
        )
    if not args.optimizer_in_backward:
        return
    if args.world_size > args.adversary_parallel_size:
        raise ValueError(
            f"TARConfig has optimizer_in_backward=True on {args.world_size} devices, whose gradients are summed when they are "
            f"complete. Leave it out, use one device, or set adversary_parallel_size={args.world_size}."
        )
    for adversary in adversaries:
        for name, allowed in (("micro_batch_size", None), ("max_grad_norm", 0.0)):
            if getattr(adversary, name) != allowed:
                raise ValueError(
                    f"Adversary {adversary.name!r} has {name}={getattr(adversary, name)}, which needs its whole gradient. "
                    f"Leave it out, or optimizer_in_backward."
                )
        if adversary.optimizer == "schedule_free_adamw":
            raise ValueError(
                f"Adversary {adversary.name!r} has optimizer='schedule_free_adamw', which steps all parameters at once. Use "
                "another one, or leave optimizer_in_backward out."
            )


def check_soft_prompt(model: PreTrainedModel | PeftModel) -> None:
    """Raises `ValueError` for a model that is a soft prompt."""
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        raise ValueError(
            f"`peft_config` is {type(model.active_peft_config).__name__!r}, which leaves the weights to the attacker as "
            "they are. Use LoRA, or train all parameters."
        )


def check_adapters(model: PreTrainedModel | PeftModel, adversaries: Iterable[Adversary]) -> None:
    """Raises `ValueError` for a LoRA attack that PEFT cannot add to the model."""
    adversaries = list(adversaries)
    full = next((adversary for adversary in adversaries if adversary.lora_r is None), None)
    why = not_added_to_the_weights(model) if isinstance(model, PeftModel) and full is not None else None
    if full is not None and why is not None:
        raise ValueError(
            f"Adversary {full.name!r} attacks all parameters, and its steps would not be those of the merged model: of "
            f"`peft_config`, {why}. Attack through LoRA alone, or train LoRA on layers of their own."
        )
    check_lora_targets(module_names(model), adversaries)
    seen = set()
    for adversary in adversaries:
        targets = adversary.lora_target_modules
        if adversary.lora_r is None or (adversary.lora_r, targets) in seen:
            continue
        seen.add((adversary.lora_r, targets))
        try:
            with restored(model, adversary, 0):
                pass
        except (ValueError, TypeError) as error:
            remedy = "Name linear layers, or use 'all-linear'"
            if isinstance(model, PeftModel):
                remedy += ", or attack all parameters: not every adapter of `peft_config` takes a second one beside it"
            raise ValueError(
                f"Adversary {adversary.name!r} has lora_target_modules={targets!r}, which PEFT cannot adapt here "
                f"({reason(error)}). {remedy}."
            ) from error


def check_whole(trainer: Trainer, does: str) -> None:
    """Raises `ValueError` for a trainer whose model FSDP2 shards; `does` says what it does with the weights."""
    if trainer.is_fsdp_enabled:
        raise ValueError(
            f"{type(trainer).__name__} {does}, which FSDP2 shards. Launch it on one device, or without FSDP on several."
        )
