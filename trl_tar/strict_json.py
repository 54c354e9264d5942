"""JSON of somebody else: only what every parser reads alike, and nothing that a reader cannot go through."""

import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any


SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can say it, and UTF-8 cannot
MAX_DEPTH = 64  # a report has 7 levels
MAX_DIGITS = 1000  # of a whole number; Python reads 4300


def read_strict_json(file: Path, remedy: str) -> Any:
    """Content of a file; `ValueError`, which ends with the remedy, for what JSON does not define or is there to exhaust.

    Args:
        file (`Path`):
            UTF-8.
        remedy (`str`):
            What to do, as a sentence.
    """

    def refuse(what: str) -> None:
        raise ValueError(f"{str(file)!r} has {what}. {remedy}")

    def number(text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            refuse(f"{text[:20]}, which is no number of JSON")
        return value

    def whole(text: str) -> int:
        if len(text) > MAX_DIGITS:
            refuse(f"a number of {len(text)} digits, more than the {MAX_DIGITS} of any")
        return int(text)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields = dict(pairs)
        if len(fields) < len(pairs):
            refuse(f"the field {Counter(name for name, _ in pairs).most_common(1)[0][0]!r} twice")
        return fields

    hooks = {"parse_constant": number, "parse_float": number, "parse_int": whole, "object_pairs_hook": once}
    try:
        content = json.loads(file.read_text(encoding="utf-8"), **hooks)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{str(file)!r} is not JSON ({error}). {remedy}") from error
    if _depth(content) > MAX_DEPTH:
        refuse(f"lists and dictionaries within each other more than {MAX_DEPTH} deep")
    if SURROGATE.search(json.dumps(content, ensure_ascii=False)):
        refuse("half of a character, which no text holds")
    return content


def _depth(content: Any) -> int:
    """How many lists and dictionaries lie within each other, counted without recursion."""
    level, depth = [content], 0
    while level := [each for each in level if isinstance(each, dict | list)]:
        level = [child for each in level for child in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth
