"""Adversaries from the name of a suite or from a YAML file."""

import inspect
from pathlib import Path
from typing import Any

from ..files import read_yaml
from .adversary import Adversary
from .suites import SUITES
from .sweeps import sweep


def named_adversaries(
    suite: str, steps: int | None, learning_rate_scale: float | None, batch_size: int | None = None
) -> list[Adversary]:
    """Returns the suite of that name, or the adversaries of a YAML or JSON file; `None` keeps what the suite has."""
    wanted = {"num_steps": steps, "learning_rate_scale": learning_rate_scale, "batch_size": batch_size}
    changes = {name: value for name, value in wanted.items() if value is not None}
    if suite in SUITES:
        known = inspect.signature(SUITES[suite]).parameters
        idle = next((name for name in changes if name not in known), None)
        if idle is not None:
            raise ValueError(f"The suite {suite!r} has no {idle}, and {changes[idle]} would do nothing. Leave it out.")
        return SUITES[suite](**changes)
    if Path(suite).suffix not in (".yaml", ".yml", ".json"):
        raise ValueError(f"There is no suite {suite!r}. Use {', '.join(SUITES)}, or a YAML file of adversaries.")
    if changes:
        raise ValueError(f"The suite {suite!r} says {', '.join(changes)} itself. Leave the option out.")
    rows = read_yaml(Path(suite), list, "Give a YAML file with a list of adversaries.")
    return adversaries_of(rows)


def adversaries_of(rows: list[Any]) -> list[Adversary]:
    """Makes adversaries of their fields, as YAML has them: one of each row, or, where a row has `sweep`, all those that
    [`sweep`] makes of the values there."""
    return [adversary for i, row in enumerate(rows) for adversary in _adversaries(i, row)]


def _adversaries(i: int, row: Any) -> list[Adversary]:
    try:
        if not isinstance(row, dict) or "sweep" not in row:
            return [Adversary(**row)]
        return sweep(Adversary(**{name: value for name, value in row.items() if name != "sweep"}), **row["sweep"])
    except TypeError as error:
        raise ValueError(f"Adversary {i} of the suite is {row!r}: {error}. Give the fields of Adversary.") from error
