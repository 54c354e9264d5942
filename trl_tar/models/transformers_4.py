"""Model folders that transformers 4 reads as transformers 5 does, which saves in words that 4 does not know."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import write_text
from ..fingerprints import older_names
from .json_files import as_object


# class that transformers 5 names in tokenizer_config.json → the name of both 4 and 5 for a tokenizer that is its tokenizer.json
TOKENIZER_CLASSES = {"TokenizersBackend": "PreTrainedTokenizerFast"}


def write_for_transformers_4(folder: str | Path) -> None:
    """Adds to a saved model, or to its tokenizer, what transformers 4 reads; 5 loads the same as before.

    Without it 4 refuses the tokenizer, and takes the default of its own for the base of rotary positions, without a word. Safe to
    repeat: a file that says all of it is left alone. Positions by a scheme for each kind of layer have no name that all models of
    4 share, and stay as 5 saves them.

    Args:
        folder (`str` or `Path`):
            Folder of a model or an adapter; what it lacks of configuration and tokenizer is skipped.

    Raises:
        `ValueError`: for a file that is not JSON, or holds no fields.
    """
    _rewrite(Path(folder) / "config.json", _with_older_names)
    _rewrite(Path(folder) / "tokenizer_config.json", _with_older_tokenizer)


def _with_older_names(config: dict[str, Any]) -> dict[str, Any]:
    if config.get("rope_scaling"):  # it is in the words of 4, and 5 takes them before its own
        return config
    return config | older_names(config)


def _with_older_tokenizer(config: dict[str, Any]) -> dict[str, Any]:
    config = dict(config)
    name = config.get("tokenizer_class")
    if isinstance(name, str):
        config["tokenizer_class"] = TOKENIZER_CLASSES.get(name, name)
    if isinstance(config.get("extra_special_tokens"), list):  # which 4 takes for a dictionary, and fails
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    return config


def _rewrite(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    if file.is_file() and (changed := change(config := as_object(file))) != config:
        # in the form in which transformers writes them
        write_text(file, json.dumps(changed, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
