"""JSON files of models, which anybody may have written."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


LARGEST = 64 * 2**20  # bytes, a choice: the largest published tokenizer.json have about 35 MB


def content_of(file: Path) -> Any:
    """What a JSON file holds; `ValueError` where it is not JSON, or too large for one of a model."""
    if (size := file.stat().st_size) > LARGEST:
        raise ValueError(
            f"{file.name!r} has {size / 2**20:.0f} MiB, more than the {LARGEST // 2**20} of any. Remove it."
        )
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file.name!r} is not JSON ({error}). Save the model again with save_pretrained.") from error


def as_object(file: Path) -> dict[str, Any]:
    """The fields of a JSON file; `ValueError` where it holds anything else."""
    content = content_of(file)
    if not isinstance(content, dict):
        raise ValueError(
            f"{file.name!r} holds {type(content).__name__!r} and no fields. Save the model again with save_pretrained."
        )
    return content


def fields_of(content: Any) -> Iterator[tuple[str, Any]]:
    """Yields every name in the content with its value, at any depth."""
    left = [content]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            yield from value.items()
        left += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
