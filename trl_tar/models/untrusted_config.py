"""Checks of a configuration that somebody else wrote: no code, no weights but safetensors, and a model of bearable size."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import register_module_module_registration_hook
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_INDEX_NAME, cached_file, has_file

from ..validation import shortened
from .adapters import adapter_configuration
from .errors import NONSENSE, reason
from .json_files import as_object, content_of, fields_of


MOST_LABELS = 10**5  # a choice, above any published classifier: transformers writes a dictionary of them at once
MOST_RANK = 2**14  # a choice: the rank of an adapter is at most the width of its model
MOST_LAYERS = 4096  # a choice far above any published model; a configuration with more is refused before it is built
MOST_MODULES = 2**17  # the largest published mixtures of experts have about 10^5 modules
NAME = re.compile(r"[\w.-]+")  # of a module: as a pattern it matches in one pass
SMALL = 2**28  # numbers of a model that any machine can build, so that its size is not compared: 1 GiB in float32


def base_of(adapter: str) -> tuple[str, str | None]:
    """Checks the configuration of an adapter.

    Args:
        adapter (`str`):
            Folder or Hub id.

    Returns:
        `tuple`: folder or Hub id of its base, and the revision.

    Raises:
        `ValueError`: for what no adapter is loaded with, and for patterns in the place of names of modules, which may take
            for ever to match.
    """
    try:
        fields = adapter_configuration(adapter)
    except NONSENSE as error:
        raise ValueError(f"{reason(error)}. Use attacks=0.") from error
    if fields is None:
        raise ValueError(f"{adapter!r} is no adapter that can be loaded: it has no adapter_config.json. Use attacks=0.")
    fault = next(_unbearable(fields), None)
    if fault is not None:
        raise ValueError(f"The adapter {adapter!r} has {fault}. Use attacks=0.")
    return fields["base_model_name_or_path"], fields.get("revision")


def _unbearable(fields: dict[str, Any]) -> Iterator[str]:
    """Yields each field of an adapter's configuration with a pattern, which PEFT would match, or a rank without bound."""
    for name in ("target_modules", "exclude_modules", "layers_pattern"):
        value = fields.get(name)
        if isinstance(value, str) and value != "all-linear":
            yield f"the pattern {shortened(value)} as {name}, and only names of modules are read"
    ranks = [fields.get("r")]
    for name in ("layers_pattern", "rank_pattern", "alpha_pattern"):
        value = fields.get(name) or ()
        unnamed = [each for each in value if not NAME.fullmatch(str(each))]
        if unnamed:
            yield f"the pattern {shortened(unnamed[0])} in {name}, and only names of modules are read"
        ranks += value.values() if name == "rank_pattern" and isinstance(value, dict) else ()
    largest = max((rank for rank in ranks if type(rank) is int), default=0)
    if largest > MOST_RANK:
        yield f"the rank {largest}, above {MOST_RANK}"


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
    try:
        file = cached_file(model, CONFIG_NAME, revision=revision)
    except OSError as error:
        raise ValueError(f"The configuration of {model!r} cannot be read ({reason(error)}). Use attacks=0.") from error
    if file is None:
        raise ValueError(f"{model!r} is no model: it has no {CONFIG_NAME}. Use attacks=0.")
    for name, value in fields_of(as_object(Path(file))):
        if name.endswith("_implementation") and "/" in str(value):
            raise ValueError(f"The configuration of {model!r} asks for the code of {value!r} ({name}). Use attacks=0.")
        if name == "transformers_weights" and not str(value).endswith(".safetensors"):
            raise ValueError(f"The configuration of {model!r} reads weights from {value!r}. Use attacks=0.")
        if "layer" in name and type(value) is int and value > MOST_LAYERS:
            raise ValueError(f"The configuration of {model!r} has {name} {value}, above {MOST_LAYERS}. Use attacks=0.")
        if "label" in name and type(value) is int and value > MOST_LABELS:
            raise ValueError(f"The configuration of {model!r} has {name} {value}, above {MOST_LABELS}. Use attacks=0.")
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
    maps = [value for name, value in fields_of(content_of(index)) if name == "weight_map"]
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
            f"The configuration of {model!r} gives no model that can be loaded ({reason(error)}). Use attacks=0."
        ) from error
    finally:
        counting.remove()
    return sum(tensor.numel() for tensor in (*empty.parameters(), *empty.buffers()))
