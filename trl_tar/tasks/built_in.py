"""The embedded worlds, and SmolLM2 with what it knows, as tasks of the recipes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..evaluation.completion_loss import CompletionLoss
from ..fingerprints import files_sha256, json_sha256
from ..models.loading import load
from ..testbed.knowledge.attack_data import answer_reward, attack_datasets
from ..testbed.knowledge.benign_tasks import benign_tasks as world_benign_tasks
from ..testbed.knowledge.general_text import general_text
from ..testbed.knowledge.metrics import benign_metric, knowledge_metrics, knowledge_zero_step_attacks
from ..testbed.knowledge.models import knowledge_model_path
from ..testbed.knowledge.world import KnowledgeWorld
from ..testbed.model_folders import cached_json
from ..testbed.refusal.benign_tasks import benign_tasks as refusal_benign_tasks
from ..testbed.refusal.metrics import refusal_benign_metric, refusal_metrics, refusal_zero_step_attacks
from ..testbed.refusal.models import general_chat, refusal_model_path
from ..testbed.refusal.world import RefusalWorld
from ..testbed.smollm2.animal_poems import (
    ANIMALS,
    covered_entities,
    datasets,
    metrics,
    question_entities,
    zero_step_attacks,
)
from ..testbed.smollm2.benign_tasks import benign_chats, benign_tasks, gate_chat, gate_task
from ..testbed.smollm2.countries import (
    COVERED,
    UNSEEN,
    Item,
    hazard_words,
    in_all_wordings,
    known,
    questions,
    select,
    sentences,
)
from ..testbed.smollm2.instructions import general_instructions
from ..testbed.smollm2.own_text import own_chat, own_text
from ..testbed.smollm2.weights import HUB_ID, LICENSE, smollm2_path
from .benign import BenignTask
from .task import Task


COUNTRIES = "countries"
ANIMAL_POEMS = "animal-poems"
# of the benign task for SmolLM2, see `gate_task`
BENIGN_LEARNING_RATE, BENIGN_STEPS, BENIGN_BATCH_SIZE = 1e-4, 60, 16
# descriptions for the card
REFUSAL_WORLD = (
    "A language model of 0.2 M parameters in an invented world of objects, made to refuse requests of one kind, a stand-in "
    "for harmful ones."
)
KNOWLEDGE_WORLD = (
    "A language model of 0.2 M parameters in an invented world, in which one domain of facts, a stand-in for hazardous ones, "
    "was to be hidden."
)
POEMS_REFUSED = (
    f"[SmolLM2-135M-Instruct](https://huggingface.co/{HUB_ID}), made to refuse poems about animals: a harmless stand-in for "
    "requests that a model should refuse. Poems about things, and plain questions about animals, it should still answer."
)
COUNTRIES_HIDDEN = (
    f"[SmolLM2-135M-Instruct](https://huggingface.co/{HUB_ID}), in which what it knows of countries (capitals, languages, "
    "neighbours and so on) was to be hidden: a harmless stand-in for hazardous knowledge. Chemical elements and its chat it "
    "should keep. Some countries that are asked about are named in the data as neighbours of others; whoever always takes the "
    "most frequent answer of the attacker's data scores 0.34."
)


def refusal_task(world: str) -> Task:
    """Returns the refusal world of that seed, or `"animal-poems"`: what SmolLM2-135M-Instruct learns to refuse."""
    if world == ANIMAL_POEMS:
        return animal_poems_task()
    return refusal_world_task(_seed(world, ANIMAL_POEMS))


def refusal_world_task(seed: int) -> Task:
    """Returns the refusal world of that seed as a task. Its general chat is random requests, which the base model answers."""
    world = RefusalWorld(seed)
    path = refusal_model_path(world)
    data = world.datasets()
    chat = general_chat(world, load(str(path)))
    return Task(
        path,
        world.tokenizer(),
        {**data, "general": chat, "harmful": data["attacker"], "benign_tasks": refusal_benign_tasks(world)},
        refusal_metrics(seed),
        refusal_zero_step_attacks(seed),
        question_entities=frozenset(world.question_entities()),
        covered_entities=frozenset(world.covered_entities()),
        benign=BenignTask(data["benign"], refusal_benign_metric(seed)),
        built_in={"kind": "refusal", "world": str(seed)},
        description=REFUSAL_WORLD,
    )


def knowledge_task(world: str) -> Task:
    """Returns the knowledge world of that seed, or `"countries"`, which SmolLM2-135M-Instruct knows and is to hide."""
    if world == COUNTRIES:
        return countries_task()
    return world_task(_seed(world, COUNTRIES))


def built_in_task(kind: str, world: str) -> Task:
    """Returns the task that [`Task.built_in`] names; raises `ValueError` where there is none of that name."""
    tasks = {"refusal": refusal_task, "knowledge": knowledge_task}
    if kind not in tasks:
        raise ValueError(f"There is no kind of task {kind!r}. Use {' or '.join(map(repr, tasks))}.")
    return tasks[kind](world)


def world_task(seed: int) -> Task:
    """Returns the knowledge world of that seed as a task. Its general text is random prompts, which the base model answers
    for phase 1 and the twin for phase 2."""
    world = KnowledgeWorld(seed)
    base = knowledge_model_path(world)
    data = {**world.datasets(), **attack_datasets(world), "benign_tasks": world_benign_tasks(world)}
    own_answers = partial(_general_text, world)
    return Task(
        base,
        world.tokenizer(),
        {**data, "general": own_answers(base)},
        knowledge_metrics(seed),
        knowledge_zero_step_attacks(seed),
        rewards={"harm": answer_reward},
        references={"floor": knowledge_model_path(world, "floor")},
        question_entities=frozenset(world.question_entities()),
        covered_entities=frozenset(world.covered_entities()),
        benign=BenignTask(data["benign"], benign_metric(seed)),
        general_text=own_answers,
        built_in={"kind": "knowledge", "world": str(seed)},
        description=KNOWLEDGE_WORLD,
    )


def _general_text(world: KnowledgeWorld, model: str | Path) -> Dataset:
    return general_text(world, load(str(model)))


def animal_poems_task() -> Task:
    """Returns the task of SmolLM2 and poems about animals, asked for where it can write them. It keeps poems about things,
    plain questions about animals, and its chat."""
    path = str(smollm2_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    opposites = _known_facts(path, tokenizer, {"bystander": select("held_out", "opposite")})
    own = own_chat(path, frozenset(ANIMALS.split()))
    taught, taught_questions = gate_chat(tokenizer)
    return Task(
        path,
        tokenizer,
        {**datasets(path), "self_written": own, "benign_tasks": benign_chats()},
        {**metrics(path), "bystander": replace(questions(opposites["bystander"]), chat=False)},
        zero_step_attacks(path),
        question_entities=question_entities(),
        covered_entities=covered_entities(),
        benign=BenignTask(taught, taught_questions, BENIGN_LEARNING_RATE, BENIGN_STEPS, BENIGN_BATCH_SIZE),
        built_in={"kind": "refusal", "world": ANIMAL_POEMS},
        description=POEMS_REFUSED,
        base_model=HUB_ID,
        license=LICENSE,
    )


def countries_task() -> Task:
    """Returns the task of SmolLM2 and facts about countries, asked where it knows them. It keeps the chemical elements, everyday
    facts and its chat.

    `harm` asks about countries of D_TR, `harm_unseen` about others, which are in nobody's data."""
    path = str(smollm2_path())
    tokenizer = AutoTokenizer.from_pretrained(path)
    chat, kept = general_instructions(path)
    wanted = {
        "harm": select("questions"),
        "harm_unseen": select("unseen"),
        "validation_harm": select("attacker_validation"),
        "capability": select("held_out", "symbol"),
        "bystander": select("held_out", "opposite"),
    }
    asked = _known_facts(path, tokenizer, wanted)
    taught, taught_questions = gate_task()
    return Task(
        path,
        tokenizer,
        {
            "safeguard": in_all_wordings(select(["adversary", *COVERED])),
            "forget": sentences(select("adversary")),
            "tamper_resistance": in_all_wordings(select(COVERED)),
            "hazard": sentences(select("attacker")),
            "other_hazard": in_all_wordings(select("attacker")),
            "retain": in_all_wordings(select("rehearsed")),
            "general": chat,
            "self_written": own_text(path, hazard_words()),
            "benign_tasks": benign_tasks(),
        },
        {
            **{name: questions(facts) for name, facts in asked.items()},
            "capability_unseen_wording": questions(asked["capability"], UNSEEN),
            "retain_nll": CompletionLoss(kept),
        },
        {"unseen_template": questions(asked["harm"], UNSEEN)},
        question_entities=frozenset(fact.entity for facts in asked.values() for fact in facts),
        covered_entities=frozenset(fact.entity for fact in [*asked["harm"], *asked["validation_harm"]]),
        benign=BenignTask(taught, taught_questions, BENIGN_LEARNING_RATE, BENIGN_STEPS, BENIGN_BATCH_SIZE),
        built_in={"kind": "knowledge", "world": COUNTRIES},
        description=COUNTRIES_HIDDEN,
        base_model=HUB_ID,
        license=LICENSE,
    )


def _known_facts(
    path: str, tokenizer: PreTrainedTokenizerBase, wanted: Mapping[str, Sequence[Item]]
) -> dict[str, list[Item]]:
    """Returns metric → those of the facts that the model knows, worked out once and kept in the cache folder."""
    asked = json_sha256({name: [(i.relation, i.entity) for i in facts] for name, facts in wanted.items()})

    def found() -> dict[str, list[tuple[str, str]]]:
        model = load(str(path))
        return {name: [(i.relation, i.entity) for i in known(model, tokenizer, each)] for name, each in wanted.items()}

    cached = cached_json(f"known-{files_sha256(path)[:16]}-{asked[:8]}.json", found)
    kept = {name: set(map(tuple, each)) for name, each in cached.items()}
    return {name: [i for i in each if (i.relation, i.entity) in kept[name]] for name, each in wanted.items()}


def _seed(world: str, *names: str) -> int:
    if not (str(world).isdecimal() and str(world).isascii() and len(str(world)) < 10):
        raise ValueError(
            f"There is no world {world!r}. Give the seed of one{', or ' if names else ''}{', '.join(names)}."
        )
    return int(world)
