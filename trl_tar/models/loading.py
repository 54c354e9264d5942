"""Models, built anew from their files for each attack."""

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
    """The folder or Hub id itself, or of an adapter that of its base."""
    if find_adapter_config_file(model) is None:
        return model
    return PeftConfig.from_pretrained(model).base_model_name_or_path


def base_weights(model: str, safetensors_only: bool = False) -> dict[str, str] | None:
    """Name and hash of the base that an adapter is merged into by [`load`]; `None` for a whole model."""
    if whole_model(model) == model:
        return None
    adapter = PeftConfig.from_pretrained(model)
    name = adapter.base_model_name_or_path
    arguments = {"dtype": torch.float32, "trust_remote_code": False, **_format(safetensors_only)}
    base = AutoModelForCausalLM.from_pretrained(name, revision=adapter.revision, **arguments)
    return {"id": shown_name(name), "weights_sha256": weights_sha256(base)}


def _format(safetensors_only: bool) -> dict[str, bool]:
    """By default transformers takes safetensors where there are any, and else what `torch.save` wrote."""
    return {"use_safetensors": True} if safetensors_only else {}


def shown_name(name: str) -> str:
    """A Hub id as it is; of a folder its last part: where it lay on this machine tells a reader nothing."""
    is_folder = bool(name) and (Path(name).is_absolute() or Path(name).is_dir())  # a model built in memory has no name
    return Path(os.path.abspath(name)).name if is_folder else name


def load(model: str, quantization: str | None = None, *, safetensors_only: bool = False) -> PreTrainedModel:
    """The model in float32 (or 4-bit) in evaluation mode, built anew from its files; `ValueError` where they are damaged.

    An adapter is merged into its base. With `safetensors_only` neither is read from a pickle."""
    arguments: dict[str, Any] = {"dtype": torch.float32, "trust_remote_code": False, **_format(safetensors_only)}
    if quantization == "nf4":
        from bitsandbytes.nn import Linear4bit
        from transformers import BitsAndBytesConfig

        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
        )
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # beside the bar of all jobs, one for each model is noise
    try:
        if whole_model(model) != model:
            assert quantization is None  # check_red_team
            loaded = AutoPeftModelForCausalLM.from_pretrained(model, **arguments).merge_and_unload()
            loaded.requires_grad_(True)  # peft freezes the base
        else:
            loaded = AutoModelForCausalLM.from_pretrained(model, **arguments)
    except (
        SafetensorError,
        RuntimeError,
        ImportError,
    ) as error:  # not whole, of another shape, or of a missing library
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"The model {model!r} cannot be loaded ({reason}). Check that its files are whole, and that there is memory."
        ) from error
    finally:
        if shown:
            logging.enable_progress_bar()
    for module in loaded.modules() if quantization == "nf4" else ():
        # on a CPU with AVX-512 a layer of bitsandbytes repacks its weights when it is first evaluated: other numbers than
        # in training and than on other CPUs, and an assertion for widths that are no multiple of 32
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return loaded.eval()
