"""Meaningless words for the embedded worlds."""

import random
from collections.abc import Iterator


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
    """Words of two syllables, each once, none of those reserved."""
    seen = set(reserved)
    while True:
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(2)) + rng.choice(CODAS)
        if word not in seen:
            seen.add(word)
            yield word
