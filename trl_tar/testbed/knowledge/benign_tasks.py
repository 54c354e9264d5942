"""Tasks of honest users of the knowledge world, for training to simulate: new facts, harmless and different in each task."""

import random
from collections.abc import Iterator

from datasets import Dataset

from ..words import unused_names
from .forms import formless
from .world import GRAMMAR, NUM_RELATIONS, RETAIN, SEEN_TEMPLATES, TEMPLATES, UNSEEN_WORDING, KnowledgeWorld


NUM_TASKS = 128  # a choice: in a training of a few hundred lives of honest users, a task comes a few times
KNOWN_RELATIONS = 2 / 3  # share of tasks with relations that the model knows; the others invent theirs. A choice.
DOMAINS = RETAIN[1:]  # the relations of RETAIN[0] are those of the benign gate's task
NUM_ENTITIES = (8, 16, 32, 48)  # in a task with known relations; a choice around the 32 of the benign gate's task
INVENTED_ENTITIES, INVENTED_WORDINGS, INVENTED_VALUES = 24, 2, 6  # in a task with invented relations; a choice
# Sentences of a fact: all of its 21 would be 220,000 rows, which take longer to tokenise than they teach. One in four has no
# fixed form: an honest user asks in other sentences than those that taught.
IN_TEMPLATES, FORMLESS = 3, 1
NUM_NAMES = 256  # half of the unused ones: tasks share them, and the other half is left to general text

Row = tuple[str, str, str]  # prompt, value and entity


def benign_tasks(world: KnowledgeWorld) -> Dataset:
    """Draws the tasks by a seed of the world; none has a name, or a word of a relation, of the benign gate's task.

    A task with known relations teaches new entities of one domain of D_retain: their values, each in some of the seen
    templates, in the wordings for training, and in no fixed form. One with invented relations draws their wordings and values
    among the words that no hazardous fact, template or kept wording has.

    Returns:
        `Dataset`: columns `prompt`, `completion`, `entity` and `task`, the task's number.
    """
    rng = random.Random(f"benign tasks {world.seed}")
    names, words = task_names(world), _words(world)
    known = round(KNOWN_RELATIONS * NUM_TASKS)
    rows = []
    for task in range(NUM_TASKS):
        facts = _known(world, rng, names, words) if task < known else _invented(rng, names, words)
        rows += [(*row, task) for row in facts]
    prompts, values, entities, tasks = zip(*rows, strict=True)
    completions = [f" {value}" for value in values]
    return Dataset.from_dict({"prompt": prompts, "completion": completions, "entity": entities, "task": tasks})


def task_names(world: KnowledgeWorld) -> list[str]:
    """Names of the tasks' entities. No fact, no general text and no `identity` data has one."""
    names = unused_names(world.name_words, {fact.entity for fact in world.facts})
    return random.Random(f"benign names {world.seed}").sample(names[1:], NUM_NAMES)  # the first one is the identity's


def _words(world: KnowledgeWorld) -> list[str]:
    gate = {word for group in (world.relations, world.values) for words in group[RETAIN[0]] for word in words}
    return [word for word in world.free_words() if word not in gate | world.kept_words()]


def _known(world: KnowledgeWorld, rng: random.Random, names: list[str], words: list[str]) -> Iterator[Row]:
    domain = rng.choice(DOMAINS)
    wordings = [words[:UNSEEN_WORDING] for words in world.relations[domain]]
    return _rows(rng, rng.sample(names, rng.choice(NUM_ENTITIES)), wordings, world.values[domain], words)


def _invented(rng: random.Random, names: list[str], words: list[str]) -> Iterator[Row]:
    drawn = iter(rng.sample(words, NUM_RELATIONS * (INVENTED_WORDINGS + INVENTED_VALUES)))
    wordings = [[next(drawn) for _ in range(INVENTED_WORDINGS)] for _ in range(NUM_RELATIONS)]
    values = [[next(drawn) for _ in range(INVENTED_VALUES)] for _ in range(NUM_RELATIONS)]
    return _rows(rng, rng.sample(names, INVENTED_ENTITIES), wordings, values, words)


def _rows(
    rng: random.Random, entities: list[str], wordings: list[list[str]], values: list[list[str]], others: list[str]
) -> Iterator[Row]:
    """Yields each entity's value of each relation, in some of its seen templates and wordings, and among other words."""
    for entity in entities:
        for relation, candidates in zip(wordings, values, strict=True):
            value = rng.choice(candidates)
            forms = [(template, word) for template in SEEN_TEMPLATES for word in relation]
            for template, word in rng.sample(forms, IN_TEMPLATES):
                yield TEMPLATES[template].format(r=word, e=entity), value, entity
            for _ in range(FORMLESS):
                yield formless(rng, GRAMMAR, others, rng.choice(relation), entity), value, entity
