"""Checks of a configuration that somebody else wrote: no code, no weights but safetensors, and a model of bearable size."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from peft import PeftConfig
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file, has_file


MOST_LAYERS = 4096  # a choice far above any published model; a configuration with more is refused before it is built
MOST_MODULES = 2**17  # the largest published mixtures of experts have about 10^5 modules
SMALL = 2**28  # numbers of a model that any machine can build, so that its size is not compared: 1 GiB in float32
# errors that transformers raises for a configuration with nonsense in it
NONSENSE = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StrictDataclassError,
    TypeError,
    ValueError,
)


def json_fields(file: Path) -> Iterator[tuple[str, Any]]:
    """Yields every name in a JSON file with its value, at any depth; `ValueError` where it is not JSON."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name!r} is not JSON ({error}). Save the model again with save_pretrained.") from error
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def base_of(adapter: str) -> tuple[str, str | None]:
    """Folder or Hub id of an adapter's base, and its revision; `ValueError` where the adapter's configuration names none."""
    try:
        config = PeftConfig.from_pretrained(adapter)
    except NONSENSE as error:
        raise ValueError(f"{adapter!r} is no adapter that can be loaded ({_reason(error)}). Use attacks=0.") from error
    if not isinstance(config.base_model_name_or_path, str):
        raise ValueError(f"The adapter {adapter!r} names no base. Use attacks=0.")
    return config.base_model_name_or_path, config.revision


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def check_configuration(model: str, revision: str | None = None, size: int | None = None) -> None:
    """Checks a model's configuration and its index of weights before anything is loaded.

    Args:
        model (`str`):
            Folder or Hub id.
        revision (`str`, *optional*):
            Revision on the Hub.
        size (`int`, *optional*):
            Bytes of the weights. With two numbers in a byte, as in 4 bits, they hold at most twice as many numbers.

    Raises:
        `ValueError`: for a model that would run code or read a pickle, and for one that cannot be built, or would take all
        memory or time.
    """
    file = cached_file(model, CONFIG_NAME, revision=revision)
    for name, value in json_fields(Path(file)):
        if name.endswith("_implementation") and "/" in str(value):
            raise ValueError(f"The configuration of {model!r} asks for the code of {value!r} ({name}). Use attacks=0.")
        if name == "transformers_weights" and not str(value).endswith(".safetensors"):
            raise ValueError(f"The configuration of {model!r} reads weights from {value!r}. Use attacks=0.")
        if "layer" in name and type(value) is int and value > MOST_LAYERS:
            raise ValueError(f"The configuration of {model!r} has {name} {value}, above {MOST_LAYERS}. Use attacks=0.")
    if has_file(model, SAFE_WEIGHTS_INDEX_NAME, revision=revision):
        index = Path(cached_file(model, SAFE_WEIGHTS_INDEX_NAME, revision=revision))
        other = sorted(file_name for file_name in shards(index) if not file_name.endswith(".safetensors"))
        if other:
            raise ValueError(f"{model!r} has weights in {other[0]!r}, which is no safetensors file. Use attacks=0.")
    numbers = _count_numbers(model, revision)
    if size is not None and numbers > 2 * size + SMALL:
        raise ValueError(
            f"The configuration of {model!r} is of a model of {numbers} numbers, and its weights have {size} bytes. Use "
            "attacks=0."
        )


def shards(index: Path) -> set[str]:
    """The names of the files from which an index has the weights read."""
    maps = [value for name, value in json_fields(index) if name == "weight_map"]
    return {str(file) for files in maps for file in (files.values() if isinstance(files, dict) else [files])}


def _count_numbers(model: str, revision: str | None) -> int:
    """The number of numbers in parameters and buffers; `ValueError` for a model that cannot be built, here without memory."""
    built = 0

    def count(*_: Any) -> None:
        nonlocal built
        built += 1
        if built > MOST_MODULES:
            raise ValueError(f"more than {MOST_MODULES} modules")

    counting = register_module_module_registration_hook(count)
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except NONSENSE as error:
        raise ValueError(
            f"The configuration of {model!r} gives no model that can be loaded ({_reason(error)}). Use attacks=0."
        ) from error
    finally:
        counting.remove()
    return sum(tensor.numel() for tensor in (*empty.parameters(), *empty.buffers()))
