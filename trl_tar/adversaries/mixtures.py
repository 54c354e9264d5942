"""Arithmetic of a mixture: data set → its unnormalised share of every batch."""

from collections.abc import Mapping
from typing import Any


def with_numbers(owner: str, mixture: Mapping[str, Any]) -> dict[str, float]:
    """The mixture with a number for each share, also where YAML has a string; `ValueError` that names `owner` elsewhere."""
    try:
        return {name: float(share) for name, share in mixture.items()}
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ValueError(
            f"{owner} has mixture={mixture!r}. Give it as data set → share, each share a number."
        ) from None


def shares(mixture: Mapping[str, float]) -> str | None:
    """The rule of a mixture: at least one data set, each with a share above 0, and a finite sum."""
    allowed = mixture and all(share > 0 for share in mixture.values()) and sum(mixture.values()) < float("inf")
    return None if allowed else "Give every data set a finite share above 0."


def normalised(mixture: Mapping[str, float]) -> dict[str, float]:
    """The mixture with shares that sum to 1."""
    total = sum(mixture.values())
    return {name: share / total for name, share in mixture.items()}


def rows_of(mixture: Mapping[str, float], batch_size: int) -> dict[str, int]:
    """Rows of each data set in a batch, by largest remainders; the first named wins a tie."""
    exact = {name: share * batch_size for name, share in normalised(mixture).items()}
    rows = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: rows[name] - exact[name])
    for name in by_remainder[: batch_size - sum(rows.values())]:
        rows[name] += 1
    return rows
