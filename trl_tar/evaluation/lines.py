"""Questions and requests in files of one JSON object a line."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def read_lines(path: str | Path, what: str) -> list[Any]:
    """All objects of a file; `ValueError`, with `what` they are, where there are none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # splitlines also splits inside strings
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} {str(path)!r} cannot be read ({error}). Give one JSON object a line.") from error
    if not rows:
        raise ValueError(f"{what} {str(path)!r} has 0 {what.lower()}. Give at least one.")
    return rows


def sha256_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Hash of all fields of all objects."""
    return hashlib.sha256(json.dumps([dict(row) for row in rows], sort_keys=True).encode()).hexdigest()
