"""Loading of models and adapters from their files, as each attack does."""

import os
from pathlib import Path
from typing import Any

import torch
from peft import AutoPeftModelForCausalLM, PeftConfig
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import find_adapter_config_file, logging

from ..fingerprints import weights_sha256


def whole_model(model: str) -> str:
    """The folder or Hub id of a whole model: the one given, or for an adapter that of its base."""
    if find_adapter_config_file(model) is None:
        return model
    return PeftConfig.from_pretrained(model).base_model_name_or_path


def base_weights(model: str, safetensors_only: bool = False) -> dict[str, str] | None:
    """Name and hash of the base into which [`load`] merges an adapter; `None` for a whole model."""
    if whole_model(model) == model:
        return None
    adapter = PeftConfig.from_pretrained(model)
    name = adapter.base_model_name_or_path
    arguments = {"dtype": torch.float32, "trust_remote_code": False, **_format(safetensors_only)}
    base = AutoModelForCausalLM.from_pretrained(name, revision=adapter.revision, **arguments)
    return {"id": shown_name(name), "weights_sha256": weights_sha256(base)}


def _format(safetensors_only: bool) -> dict[str, bool]:
    """Arguments of `from_pretrained`: by default it reads safetensors if there are any, or else what `torch.save` wrote."""
    return {"use_safetensors": True} if safetensors_only else {}


def shown_name(name: str) -> str:
    """The name of a model in a report: a Hub id as it is, a folder without the folders it is in.

    A model that was built in memory has an empty name."""
    is_folder = bool(name) and (Path(name).is_absolute() or Path(name).is_dir())
    return Path(os.path.abspath(name)).name if is_folder else name


def load(model: str, quantization: str | None = None, *, safetensors_only: bool = False) -> PreTrainedModel:
    """Loads a model in evaluation mode; an adapter is merged into its base.

    Args:
        model (`str`):
            Folder or Hub id of a model or an adapter.
        quantization (`str`, *optional*):
            `"nf4"` for weights in 4 bits, which an adapter cannot be merged into. By default they are in float32.
        safetensors_only (`bool`, *optional*, defaults to `False`):
            Read neither model nor base from a pickle.

    Raises:
        `ValueError`: for damaged files, and for weights that do not fit the configuration.
    """
    arguments: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False, **_format(safetensors_only)}
    if quantization == "nf4":
        from bitsandbytes.nn import Linear4bit
        from transformers import BitsAndBytesConfig

        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the red team has a bar of its own for all jobs
    try:
        if whole_model(model) != model:
            assert quantization is None  # refused by `check_red_team`
            loaded = AutoPeftModelForCausalLM.from_pretrained(model, **arguments).merge_and_unload()
            loaded.requires_grad_(True)  # peft freezes the base
        else:
            loaded = AutoModelForCausalLM.from_pretrained(model, **arguments)
    except (SafetensorError, RuntimeError, ImportError) as error:  # cut files, other shapes, a missing library
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"The model {model!r} cannot be loaded ({reason}). Check that its files are whole, and that there is memory."
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    for module in loaded.modules() if quantization == "nf4" else ():
        # On a CPU with AVX-512 a layer of bitsandbytes repacks its weights when it is first evaluated. It then gives other
        # numbers than in training and on other CPUs, and fails for widths that are no multiple of 32.
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return loaded.eval()
