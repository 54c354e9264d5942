"""Types of command-line arguments."""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def folder(text: str) -> Path:
    if Path(text).exists() and not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file: give a folder")
    return Path(text)


def at_least(low: int):
    def number(text: str) -> int:
        if not text.isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {low}")
        return int(text)

    return number


def listed(kind: Callable[[str], Any]):
    def values(text: str) -> list[Any]:
        return [kind(part.strip()) for part in text.split(",")]

    return values


def number_of_bytes(text: str) -> float:
    try:
        return bytes_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def share(text: str) -> float:
    if positive(text) > 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and up to 1")
    return float(text)


UNITS = {"MB": 1e6, "GB": 1e9, "TB": 1e12, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def bytes_of(text: str) -> float:
    """Bytes of text such as "80GB" or "24GiB"."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?B)", text.strip(), re.IGNORECASE)
    if found is None or found[2].upper() not in UNITS or not float(found[1]):
        raise ValueError(f"{text!r} is no size of a memory. Use one such as 80GB or 24GiB.")
    return float(found[1]) * UNITS[found[2].upper()]
