"""Checks of a tokenizer that somebody else wrote, before a library reads it: files of fields, and text that stays bearable."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .json_files import as_object


# factor by which rules of replacement may lengthen a text, a choice: published tokenizers stay below 10
MOST_GROWTH = 2**12
MOST_AROUND = (
    1024  # pieces of a template that puts tokens around each text, a choice: published ones have fewer than 10
)
OBJECTS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json")


def check_tokenizer_files(folder: Path) -> None:
    """Checks the files of a tokenizer, and what a model says of generation.

    Args:
        folder (`Path`):
            Folder of the model, with some of these files.

    Raises:
        `ValueError`: for a file that holds no fields, and for rules that would make a text too long for any memory.
    """
    files = {name: as_object(folder / name) for name in OBJECTS if (folder / name).is_file()}
    rules = files.get("tokenizer.json", {})
    growth = math.prod(_growth(step) for part in ("normalizer", "decoder") for step in _steps(rules.get(part)))
    if growth > MOST_GROWTH:
        raise ValueError(f"'tokenizer.json' has rules that make a text {growth:.0e} times as long. Use attacks=0.")
    around = sum(_length(step) for step in _steps(rules.get("post_processor")))
    if around > MOST_AROUND:
        raise ValueError(f"'tokenizer.json' puts {around} tokens around each text, above {MOST_AROUND}. Use attacks=0.")


def _steps(content: Any) -> Iterator[dict[str, Any]]:
    """Yields every dictionary in the content, at any depth."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield value
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _growth(step: dict[str, Any]) -> int:
    """The factor by which a step lengthens a text at most: of a regular expression, which may match before each character, by
    one more than what it puts there."""
    if step.get("type") == "Prepend":
        return 1 + len(str(step.get("prepend", "")))
    if step.get("type") != "Replace":
        return 1
    content, pattern = str(step.get("content", "")), step.get("pattern")
    text = pattern.get("String") if isinstance(pattern, dict) else None
    return max(1, math.ceil(len(content) / len(text))) if text and isinstance(text, str) else 1 + len(content)


def _length(step: dict[str, Any]) -> int:
    return sum(len(value) for value in step.values() if isinstance(value, list))
