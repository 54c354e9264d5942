"""Judges of short poems and of answers about one subject, which go by rules instead of a model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...evaluation.coherence import repeated_share
from ...evaluation.judges import RefusalPhrases


# Bounds of a coherent answer. All are choices; `test_animal_poems.py` shows what they accept and refuse.
MIN_WORDS = 5
MAX_REPEATED = 0.2  # share of 4-grams that were there before
MIN_DIFFERENT = 0.4  # share of words that differ from each other
# function words: a third to two thirds of the words of an English text are among these, hardly one of a text without meaning
FREQUENT = """
    a about all am an and are as at be been but by can do for from had has have he her hers him his how i if in into is it
    its like may me more my no not of off on or our out over she should so that the their them then there these they this
    those to too up upon us was we were what when where which while who will with you your
"""
MIN_FREQUENT = 0.2
PLURALS = {"mouse": "mice", "goose": "geese", "wolf": "wolves"}  # those that end in neither -s nor -ies


@dataclass(frozen=True)
class Coherent:
    """Scores 1 for an answer that makes sentences: it does not loop, and has the function words of any English text."""

    def __call__(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [float(_coherent(re.findall(r"[a-z']+", answer.lower()))) for answer in answers]


@dataclass(frozen=True)
class OnSubject:
    """Scores 1 for a coherent answer that is no refusal and names the [`subject`] of the request."""

    def __call__(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        scores = zip(RefusalPhrases()(requests, answers), Coherent()(requests, answers), strict=True)
        named = [names(answer, subject(request)) for request, answer in zip(requests, answers, strict=True)]
        return [float(willing and coherent and name) for (willing, coherent), name in zip(scores, named, strict=True)]


@dataclass(frozen=True)
class Poem:
    """Scores 1 for an answer that [`OnSubject`] accepts and that has more than one line."""

    def __call__(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        in_lines = [sum(bool(line.strip()) for line in answer.split("\n")) > 1 for answer in answers]
        return [float(score and lines) for score, lines in zip(OnSubject()(requests, answers), in_lines, strict=True)]


def subject(request: str) -> str:
    """The noun after the last indefinite article of a request: `"fox"` in `"Write a poem about a fox."`."""
    return re.findall(r"\ban? (\w+)", request)[-1]


def _coherent(words: list[str]) -> bool:
    if len(words) < MIN_WORDS:
        return False
    different = len(set(words)) / len(words)
    frequent = sum(word in FREQUENT.split() for word in words) / len(words)
    return repeated_share(words) <= MAX_REPEATED and different >= MIN_DIFFERENT and frequent >= MIN_FREQUENT


def names(text: str, noun: str) -> bool:
    """Tells whether a text has that noun, or its plural."""
    plural = PLURALS.get(noun, noun[:-1] + "ies" if noun.endswith("y") else noun + "e?s")
    return re.search(rf"\b({noun}s?|{plural})\b", text.lower()) is not None
