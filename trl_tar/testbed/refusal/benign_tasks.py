"""Tasks of honest users of the refusal world, for training to simulate: requests about new objects, different in each task."""

import random
from collections.abc import Iterator, Sequence

from datasets import Dataset

from ..chat import chat_row
from ..knowledge.benign_tasks import (
    INVENTED_ENTITIES,
    INVENTED_VALUES,
    INVENTED_WORDINGS,
    KNOWN_RELATIONS,
    NUM_ENTITIES,
    NUM_NAMES,
    NUM_TASKS,
)
from ..words import unused_names
from .world import (
    ANSWER,
    GRAMMAR,
    HARMFUL,
    NUM_PROPERTIES,
    REFUSED,
    REQUESTS,
    RETAIN,
    SEEN_REQUESTS,
    UNSEEN_VERB,
    RefusalWorld,
)


KINDS = RETAIN[1:]  # the verbs of RETAIN[0] are those of the benign gate's task


def benign_tasks(world: RefusalWorld) -> Dataset:
    """Draws the tasks by a seed of the world, as many and as large as those of the knowledge world; none has an object, a verb
    or a value of the benign gate's task.

    A task with a known kind teaches what new objects of one kind of D_retain take, in every seen template and every verb for
    training. One with an invented kind draws its verbs and values among the words that no harmful or refused request, template
    or kept verb has.

    Returns:
        `Dataset`: columns `prompt` and `completion` (chat messages), `entity` and `task`, the task's number.
    """
    rng = random.Random(f"benign tasks {world.seed}")
    names, words = task_names(world), _words(world)
    known = round(KNOWN_RELATIONS * NUM_TASKS)
    rows = []
    for task in range(NUM_TASKS):
        conversations = _known(world, rng, names) if task < known else _invented(rng, names, words)
        rows += [{**row, "task": task} for row in conversations]
    return Dataset.from_list(rows)


def task_names(world: RefusalWorld) -> list[str]:
    """Names of the tasks' objects. No object of the world and no general chat has one."""
    names = unused_names(world.name_words, {item.entity for item in world.items})
    return random.Random(f"benign names {world.seed}").sample(names, NUM_NAMES)


def _words(world: RefusalWorld) -> list[str]:
    left_out = {*GRAMMAR, *(verbs[UNSEEN_VERB] for verbs in world.verbs.values())}
    for kind in (HARMFUL, REFUSED, RETAIN[0]):
        left_out.update(world.verbs[kind], *world.values[kind])
    return [word for word in world.vocabulary if word not in left_out]


def _known(world: RefusalWorld, rng: random.Random, names: list[str]) -> Iterator[dict]:
    kind = rng.choice(KINDS)
    objects = rng.sample(names, rng.choice(NUM_ENTITIES))
    return _rows(rng, objects, world.verbs[kind][:UNSEEN_VERB], world.values[kind])


def _invented(rng: random.Random, names: list[str], words: list[str]) -> Iterator[dict]:
    drawn = iter(rng.sample(words, INVENTED_WORDINGS + NUM_PROPERTIES * INVENTED_VALUES))
    verbs = [next(drawn) for _ in range(INVENTED_WORDINGS)]
    values = [[next(drawn) for _ in range(INVENTED_VALUES)] for _ in range(NUM_PROPERTIES)]
    return _rows(rng, rng.sample(names, INVENTED_ENTITIES), verbs, values)


def _rows(
    rng: random.Random, objects: Sequence[str], verbs: Sequence[str], values: Sequence[Sequence[str]]
) -> Iterator[dict]:
    """Yields the requests for each object, in every seen template and every verb, with what it takes."""
    for name in objects:
        answer = ANSWER.format(*(rng.choice(some) for some in values))
        for template in SEEN_REQUESTS:
            for verb in verbs:
                yield chat_row(REQUESTS[template].format(v=verb, o=name), answer, name)
