"""Files of JSON, YAML and JSON lines, read strictly and written in one form."""

import contextlib
import json
import math
import os
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml


# names of `unfinished_name`, and of files of JSON from before they had a random part
UNFINISHED = re.compile(r"\..+\.\d+-[0-9a-f]{8}|\..+\.json\.\d+")


def finite(value: float) -> float | None:
    """Returns the value, or `None` for NaN and infinity, which JSON lacks."""
    return value if math.isfinite(value) else None


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Gives an empty file to write to, which takes the place of `path` at the end of the block.

    A killed run, or a full disk, leaves the old file or the new one. Where `path` is a link, the link is replaced, and what it
    leads to stays as it is."""
    unfinished = unfinished_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.touch(exist_ok=False)
        yield unfinished
        os.replace(unfinished, path)
    except OSError as error:
        raise OSError(
            f"{str(path)!r} cannot be written ({error.strerror or error}). Make room and start again: what is finished is kept."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # where even this folder is out of reach
            unfinished.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 in one piece, see [`new_file`]."""
    with new_file(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Writes JSON in one piece, see [`new_file`]. Refuses NaN and infinity."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def unfinished_name(path: Path) -> Path:
    """Returns the hidden name under which a file is written before it takes its place; no two processes, on whatever machine, have
    the same."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


def remove_unfinished(folder: Path) -> None:
    """Removes from the folder, and from those in it, what killed processes had not finished. Nobody else may write there."""
    for pattern in (".*", "*/.*"):
        for file in folder.glob(pattern):
            if UNFINISHED.fullmatch(file.name):
                file.unlink(missing_ok=True)


def read_yaml(file: Path, kind: type, remedy: str) -> Any:
    """Reads a YAML or JSON file; raises `ValueError` with the remedy if its content is not of that kind."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{str(file)!r} cannot be read ({str(error).splitlines()[0]}). {remedy}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{str(file)!r} holds {type(content).__name__!r}. {remedy}")
    check_names(repr(str(file)), content)
    return content


def check_names(owner: str, content: Any) -> None:
    """Raises `ValueError` for a name, at any depth, that YAML read as a number or a truth value."""
    for key in _keys(content):
        if not isinstance(key, str):
            raise ValueError(f"{owner} has the name {key!r}, which YAML does not read as text. Write it in quotes.")


def _keys(content: Any) -> Iterator[Any]:
    """Yields the keys of all mappings, at any depth."""
    if isinstance(content, dict):
        yield from content
    if isinstance(content, dict | list):
        for child in content.values() if isinstance(content, dict) else content:
            yield from _keys(child)


SURROGATE = re.compile("[\ud800-\udfff]")  # JSON can say it, and UTF-8 cannot
MAX_DEPTH = 64  # levels, a choice: a report has 7
MAX_DIGITS = 1000  # of a whole number, a choice below the 4300 that Python reads
# in one dictionary: a report has a summary by the name of each adversary, and at most this many attacks
MAX_NAMES = 10**5


def read_strict_json(file: Path, remedy: str) -> Any:
    """Reads a JSON file; raises `ValueError`, which ends with the remedy, for what JSON does not define or would exhaust memory.

    Args:
        file (`Path`):
            File in UTF-8.
        remedy (`str`):
            Sentence that says what the user can do.
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
        if len(pairs) > MAX_NAMES:
            refuse(f"a dictionary of {len(pairs)} names, more than the {MAX_NAMES} of any")
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
    """Counts without recursion how many lists and dictionaries lie within each other."""
    level, depth = [content], 0
    while level := [value for value in level if isinstance(value, dict | list)]:
        level = [child for value in level for child in (value.values() if isinstance(value, dict) else value)]
        depth += 1
    return depth


def read_lines(path: str | Path, what: str) -> list[Any]:
    """Reads one JSON object a line; raises `ValueError`, which names `what` they are, if there are none."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")  # splitlines also splits inside strings
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} {str(path)!r} cannot be read ({error}). Give one JSON object a line.") from error
    if not rows:
        raise ValueError(f"{what} {str(path)!r} has 0 {what.lower()}. Give at least one.")
    return rows
