"""What a trainer and a red team refuse alike: adversaries that are no list of attacks, or need what is not there."""

import importlib.util
from collections.abc import Collection, Iterable
from typing import Any

from .adversary import Adversary
from .options import options_of


def checked_list(adversaries: Any, none: str) -> list[Adversary]:
    """The adversaries as a list.

    Args:
        adversaries (`Iterable[Adversary]`):
            What a user gave as such.
        none (`str`):
            Remedy where there are none.

    Returns:
        `list[Adversary]`: at least one, each with a name of its own.

    Raises:
        `ValueError`: for anything else.
    """
    if not isinstance(adversaries, Iterable):
        raise ValueError(f"`adversaries` is {type(adversaries).__name__!r}. Give a list of Adversary.")
    adversaries = list(adversaries)
    for i, adversary in enumerate(adversaries):
        if not isinstance(adversary, Adversary):
            raise ValueError(
                f"`adversaries[{i}]` is {type(adversary).__name__!r}. Give an Adversary: Adversary(**fields) for a dict."
            )
    if not adversaries:
        raise ValueError(f"`adversaries` is empty. {none}")
    names = [adversary.name for adversary in adversaries]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"`adversaries` has two named {twice!r}. Give each its own name.")
    return adversaries


def check_reads(adversary: Adversary, argument: str, names: Collection[str]) -> None:
    """Raises `ValueError` for a data set that the attack, or one before it, reads and that is not among the `names`.

    `argument` is what the user gave the data sets as."""
    missing = next((name for name in adversary.reads if name not in names), None)
    if missing is not None:
        raise ValueError(
            f"Adversary {adversary.name!r} reads {missing!r}, and `{argument}` has {sorted(names)}. Add the data set under "
            "that name."
        )


def check_installed(adversary: Adversary) -> None:
    """Raises `ValueError` for an attack that needs a package which is not there."""
    for name, option in options_of(adversary).items():
        value = getattr(adversary, name)
        choice = option.chosen(value)
        package = choice.package if choice is not None else option.package if value != option.default else None
        if package is not None and importlib.util.find_spec(package.name) is None:
            raise ValueError(
                f"Adversary {adversary.name!r} has {name}={value!r}, which needs {package.name}. Install {package.install}."
            )
