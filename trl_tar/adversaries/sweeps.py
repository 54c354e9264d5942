"""Variations of one adversary."""

import itertools
from collections.abc import Iterable
from dataclasses import fields, replace

from .adversary import Adversary


def sweep(adversary: Adversary, **values: list) -> list[Adversary]:
    """Makes all combinations of `values` over one adversary; each name says what differs.

    Args:
        adversary ([`Adversary`]):
            The one to vary.
        **values (`list`):
            Field name → values to try.

    Returns:
        `list[Adversary]`

    Raises:
        `ValueError`: for a name that is no field or is `name`, for values that are no list, and for an attack that cannot be.
    """
    unknown = set(values) - {field.name for field in fields(Adversary)}
    if unknown:
        raise ValueError(f"sweep() got {sorted(unknown)[0]!r}, which is not a field of Adversary. Check its spelling.")
    if "name" in values:
        raise ValueError(
            f"sweep() got name={values['name']!r}. Leave it out: each name is made of the values that differ."
        )
    for name, tried in values.items():
        if isinstance(tried, str) or not isinstance(tried, Iterable):
            raise ValueError(f"sweep() got {name}={tried!r}. Give a list of values.")
    adversaries = []
    for combination in itertools.product(*values.values()):
        chosen = dict(zip(values, combination, strict=True))
        if "lora_r" in chosen and "lora_alpha" not in chosen:
            chosen["lora_alpha"] = None  # twice the new rank, not the old one's
        label = "-".join(f"{name}={chosen[name]}" for name in values)
        adversaries.append(replace(adversary, **chosen, name=f"{adversary.name}-{label}"))
    return adversaries
