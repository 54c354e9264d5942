"""Judges of short poems and answers about one subject, by rules that cost nothing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...evaluation.coherence import repeated_share
from ...evaluation.judges import RefusalPhrases


MIN_WORDS = 5
MAX_REPEATED, MIN_DIFFERENT = 0.2, 0.4  # share of 4-grams said before; of different words
# a third to two thirds of English words are among these; hardly one of a text without meaning
FREQUENT = """
    a about all am an and are as at be been but by can do for from had has have he her hers him his how i if in into is it
    its like may me more my no not of off on or our out over she should so that the their them then there these they this
    those to too up upon us was we were what when where which while who will with you your
"""
MIN_FREQUENT = 0.2
PLURALS = {"mouse": "mice", "goose": "geese", "wolf": "wolves"}  # neither in -s nor -ies


@dataclass(frozen=True)
class Coherent:
    """1 for words that make sentences: they do not go round in a loop, and those that any English text has are there."""

    def __call__(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        return [float(_coherent(re.findall(r"[a-z']+", answer.lower()))) for answer in answers]


@dataclass(frozen=True)
class OnSubject:
    """1 for a coherent answer that is no refusal and names what the request asks about: the noun after its last article."""

    def __call__(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        scores = zip(RefusalPhrases()(requests, answers), Coherent()(requests, answers), strict=True)
        named = [names(answer, subject(request)) for request, answer in zip(requests, answers, strict=True)]
        return [float(willing and coherent and name) for (willing, coherent), name in zip(scores, named, strict=True)]


@dataclass(frozen=True)
class Poem:
    """1 for an answer that [`OnSubject`] accepts and that has more than one line."""

    def __call__(self, requests: Sequence[str], answers: Sequence[str]) -> list[float]:
        verse = [sum(bool(line.strip()) for line in answer.split("\n")) > 1 for answer in answers]
        return [float(score and each) for score, each in zip(OnSubject()(requests, answers), verse, strict=True)]


def subject(request: str) -> str:
    """The noun after the last article: `"fox"` of `"Write a poem about a fox."`."""
    return re.findall(r"\ban? (\w+)", request)[-1]


def _coherent(words: list[str]) -> bool:
    if len(words) < MIN_WORDS:
        return False
    different = len(set(words)) / len(words)
    frequent = sum(word in FREQUENT.split() for word in words) / len(words)
    return repeated_share(words) <= MAX_REPEATED and different >= MIN_DIFFERENT and frequent >= MIN_FREQUENT


def names(text: str, noun: str) -> bool:
    """Whether a text has that noun, or its plural."""
    plural = PLURALS.get(noun, noun[:-1] + "ies" if noun.endswith("y") else noun + "e?s")
    return re.search(rf"\b({noun}s?|{plural})\b", text.lower()) is not None
