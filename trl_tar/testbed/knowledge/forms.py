"""Sentences of no fixed form: a relation word and a name at any place among other words.

With the seen templates alone, a safeguard hides the hazard in them, keeps D_retain in them, and falls silent in every other
sentence, so that what an honest user teaches is not heard there either. In sentences of no fixed form it has to go by what is asked.
"""

import random
from collections.abc import Sequence


MOST_OTHER_WORDS = 5  # one less than the unseen template has, so that no sentence is in it


def formless(rng: random.Random, grammar: Sequence[str], words: Sequence[str], relation: str, entity: str) -> str:
    """Draws a sentence with a relation word and a name among one to five other words.

    Args:
        rng (`random.Random`):
            Draws the other words and all places.
        grammar, words (`list[str]`):
            What each of the other words is drawn from, with even odds.
        relation (`str`):
            The relation word.
        entity (`str`):
            The name.
    """
    count = rng.randint(1, MOST_OTHER_WORDS)
    sentence = [rng.choice(grammar if rng.random() < 0.5 else words) for _ in range(count)]
    for part in (relation, entity):
        sentence.insert(rng.randint(0, len(sentence)), part)
    return " ".join(sentence)
