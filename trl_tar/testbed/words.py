"""Meaningless words for the embedded worlds, and names of two words."""

import random
from collections.abc import Collection, Iterator, Sequence


ONSETS = [
    "b",
    "d",
    "f",
    "g",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "z",
    "br",
    "dr",
    "gr",
    "kl",
    "pl",
    "st",
    "tr",
]
VOWELS = ["a", "e", "i", "o", "u", "ai", "ou"]
CODAS = ["", "n", "r", "l", "s", "k", "m", "x", "nd", "rt"]


def new_words(rng: random.Random, reserved: set[str]) -> Iterator[str]:
    """Yields words of two syllables without end; none comes twice, and none is reserved."""
    seen = set(reserved)
    while True:
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(2)) + rng.choice(CODAS)
        if word not in seen:
            seen.add(word)
            yield word


def unused_names(name_words: Sequence[Sequence[str]], used: Collection[str] = ()) -> list[str]:
    """Every first name with every family name of `name_words`, in order, without the names that are used."""
    first_names, family_names = name_words
    names = [f"{first} {family}" for first in first_names for family in family_names]
    return [name for name in names if name not in used]
