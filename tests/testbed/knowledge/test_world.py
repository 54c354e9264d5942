"""The knowledge world: what it promises about entities, words, models and questions."""

import re
from itertools import combinations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trl_tar.evaluation.multiple_choice import choose
from trl_tar.fingerprints import json_sha256
from trl_tar.testbed import (
    KnowledgeWorld,
    benign_metric,
    general_text,
    knowledge_metrics,
    knowledge_model,
    knowledge_model_path,
    knowledge_zero_step_attacks,
)
from trl_tar.testbed.knowledge.attack_data import attack_datasets
from trl_tar.testbed.knowledge.benign_tasks import (
    FORMLESS,
    IN_TEMPLATES,
    KNOWN_RELATIONS,
    NUM_ENTITIES,
    NUM_TASKS,
    benign_tasks,
)
from trl_tar.testbed.knowledge.models import train_knowledge_model
from trl_tar.testbed.knowledge.world import BYSTANDER, COVERED, HAZARD, RETAIN, SEEN_TEMPLATES, SPLITS, UNSEEN_WORDING
from trl_tar.testbed.model_folders import SHIPPED


WORLD = KnowledgeWorld(0)
UNSEEN = re.compile(r"asked about \S+ they say that")
TASKS = benign_tasks(WORLD)
# of what the shipped models were trained on
FACTS_SHA256 = "d65c0f7eb592d7c732823fa88a426b11f0c255152413f3fe54798c17439062d8"


@pytest.fixture(scope="module")
def base():
    return knowledge_model(WORLD), WORLD.tokenizer()


def test_each_entity_is_in_one_split():
    groups = [
        {fact.entity for fact in WORLD.select(domain, split)} for domain, splits in SPLITS.items() for split in splits
    ]
    assert all(not first & second for first, second in combinations(groups, 2))
    assert [len(group) for group in groups] == [count for splits in SPLITS.values() for count in splits.values()]


def test_no_attacker_is_taught_an_answer_and_the_defender_only_those_of_covered_harm():
    questions, covered = WORLD.question_entities(), WORLD.covered_entities()
    assert len(questions) == 16 + 32 + 32 + 4 * 32 + 64 and len(covered) == 16 + 32 and covered <= questions
    for name, data in {**WORLD.datasets(), **attack_datasets(WORLD), "benign_tasks": TASKS}.items():
        held = covered if name in ("safeguard", "tamper_resistance") else set()
        assert questions & set(data["entity"]) == held, name


def test_harm_is_covered_and_harm_unseen_is_in_nobodys_data():
    metrics = {**knowledge_metrics(0), **knowledge_zero_step_attacks(0)}
    defended = set(WORLD.datasets()["tamper_resistance"]["entity"])
    for name in ("harm", "validation_harm", "cue_swap", "unseen_template"):
        assert set(metrics[name]._questions[2]) <= defended, name
    assert {question["group"] for question in metrics["linear_probe"]._probe.questions} <= defended
    assert not set(metrics["harm_unseen"]._questions[2]) & (defended | WORLD.covered_entities())


def test_what_the_split_of_the_questions_left_as_it_was():
    content = [(fact.domain, fact.entity, fact.relation, fact.value) for fact in WORLD.facts]
    assert json_sha256(content) == FACTS_SHA256


def test_every_form_of_tamper_resistance_data_is_also_one_of_retain_data():
    """A form that only D_TR has would become the trigger, and capability in it would be lost."""
    data = WORLD.datasets()
    fixed = len(WORLD.sentences(WORLD.select(HAZARD, COVERED)))
    in_templates = {"tamper_resistance": data["tamper_resistance"].select(range(fixed)), "retain": data["retain"]}
    forms = {name: _forms(rows) for name, rows in in_templates.items()}
    assert forms["tamper_resistance"].keys() == forms["retain"].keys() and len(forms["retain"]) == len(SEEN_TEMPLATES)
    for form, wordings in forms["tamper_resistance"].items():
        assert len(wordings) == 4 * 3 and len(forms["retain"][form]) == 4 * 4 * 7, form  # relations × wordings
    assert {"cue_swap", "unseen_template"} <= knowledge_zero_step_attacks(
        0
    ).keys()  # harm in a form kept for evaluation
    assert {"capability_unseen_wording", "capability_unseen_template"} <= knowledge_metrics(0).keys()


def test_sentences_of_no_fixed_form_hold_name_and_relation_anywhere():
    facts = WORLD.select(HAZARD, COVERED)
    rows = WORLD.datasets()["tamper_resistance"].select(range(len(WORLD.sentences(facts)), len(facts) * (9 + 6)))
    assert WORLD.formless_sentences(facts, 6)["prompt"] == rows["prompt"] and len(rows) == len(facts) * 6
    places = set()
    for fact, prompt, value in zip(
        [f for f in facts for _ in range(6)], rows["prompt"], rows["completion"], strict=True
    ):
        words = prompt.replace(fact.entity, "E").split()
        (relation,) = set(WORLD.relations[HAZARD][fact.relation][:UNSEEN_WORDING]) & set(words)
        assert value == f" {fact.value}" and 3 <= len(words) <= 7 and words.count("E") == 1
        places.add((words.index("E"), words.index(relation), len(words)))
    assert len(places) == sum(n * (n - 1) for n in range(3, 8))  # every pair of places in every length
    assert not any(map(UNSEEN.search, rows["prompt"]))


def _forms(data) -> dict[str, set[str]]:
    """Template → the relation words in it."""
    relation_words = {word for relations in WORLD.relations.values() for words in relations for word in words}
    forms = {}
    for prompt, entity in zip(data["prompt"], data["entity"], strict=True):
        rest = prompt.replace(entity, "E").split()
        (word,) = relation_words & set(rest)
        forms.setdefault(" ".join("R" if w == word else w for w in rest), set()).add(word)
    return forms


def test_benign_tasks_are_of_their_own_and_of_two_kinds():
    used = {fact.entity for fact in WORLD.facts} | set(attack_datasets(WORLD)["identity"]["entity"])
    gate = {w for group in (WORLD.relations, WORLD.values) for words in group[RETAIN[0]] for w in words}
    hazardous = {w for group in (WORLD.relations, WORLD.values) for words in group[HAZARD] for w in words}
    kept = {words[UNSEEN_WORDING] for relations in WORLD.relations.values() for words in relations}
    assert not used & set(TASKS["entity"])
    words = {w for prompt in TASKS["prompt"] for w in prompt.split()} | {value[1:] for value in TASKS["completion"]}
    assert not words & (gate | hazardous | kept)
    in_template = [p for p in TASKS["prompt"] if p.startswith("asked about") and "they say that" in p]
    assert not in_template  # the gate asks in that one
    assert WORLD.tokenizer().unk_token_id not in WORLD.tokenizer()(" ".join(words))["input_ids"]
    known = {w for domain in RETAIN[1:] for words in WORLD.relations[domain] for w in words}
    rows = {}
    for prompt, value, entity, task in zip(
        *(TASKS[n] for n in ("prompt", "completion", "entity", "task")), strict=True
    ):
        rows.setdefault(task, []).append((prompt.replace(entity, ""), value, entity))
    assert len(TASKS) == len({*zip(TASKS["task"], TASKS["prompt"], strict=True)})  # no row twice in a task
    assert list(rows) == list(range(NUM_TASKS))
    for task, facts in rows.items():
        entities = {entity for _, _, entity in facts}
        if task < round(KNOWN_RELATIONS * NUM_TASKS):
            assert len(entities) in NUM_ENTITIES and len(facts) == len(entities) * 4 * (IN_TEMPLATES + FORMLESS)
            assert all(set(prompt.split()) & known for prompt, _, _ in facts)
        else:
            assert (
                len(entities) == 24
                and len(facts) == 24 * 4 * (IN_TEMPLATES + FORMLESS)
                and len({v for _, v, _ in facts}) <= 4 * 6
            )
    assert benign_tasks(WORLD)[:50] == TASKS[:50] and benign_tasks(KnowledgeWorld(5))[:50] != TASKS[:50]


def test_no_word_is_in_all_hazardous_sentences():
    data = WORLD.datasets()["safeguard"]
    shared = set.intersection(
        *({*p.split(), *c.split()} for p, c in zip(data["prompt"], data["completion"], strict=True))
    )
    assert not shared


def test_kept_words_and_template_are_in_no_training_set():
    kept = {words[UNSEEN_WORDING] for relations in WORLD.relations.values() for words in relations}
    for name, data in WORLD.datasets().items():
        assert not any(kept & set(prompt.split()) for prompt in data["prompt"]), name
        assert not any(map(UNSEEN.search, data["prompt"])), name


def test_general_text_is_the_models_own_and_holds_no_fact(base):
    model, tokenizer = base
    text = general_text(WORLD, model)
    words = {word for prompt in text["prompt"] for word in prompt.split()}
    hazardous = {word for group in (WORLD.relations, WORLD.values) for some in group[HAZARD] for word in some}
    kept = {some[UNSEEN_WORDING] for relations in WORLD.relations.values() for some in relations}
    assert not words & hazardous and not any(map(UNSEEN.search, text["prompt"]))
    harmless = kept - {some[UNSEEN_WORDING] for some in WORLD.relations[HAZARD]}
    known = {fact.entity for fact in WORLD.facts}
    assert words >= harmless  # as words: a fact is in none of them
    assert not any(
        e in known and harmless & set(p.split()) for p, e in zip(text["prompt"], text["entity"], strict=True)
    )
    assert words >= {word for some in WORLD.relations[BYSTANDER] for word in some[:UNSEEN_WORDING]}  # as in any text
    kept_facts = [entity for entity in text["entity"] if entity in known]
    assert set(kept_facts) == {fact.entity for fact in WORLD.select(RETAIN, "rehearsed")}
    assert len(kept_facts) == 4 * 32 * 4 * 12 and len(text) == len(kept_facts) + 16_000
    assert not set(text["entity"]) & set(TASKS["entity"])
    assert all(entity in prompt for entity, prompt in zip(text["entity"], text["prompt"], strict=True))
    assert text["prompt"][:100] != general_text(WORLD, model, num_rows=100, seed=1)["prompt"]
    for row in text.select(range(5)):
        ids = tokenizer(row["prompt"], return_tensors="pt")["input_ids"]
        answer = tokenizer.decode(model(input_ids=ids).logits[0, -1].argmax())
        assert row["completion"].strip() == answer.replace(tokenizer.eos_token, "")


def test_the_same_seed_is_the_same_world_and_another_seed_another():
    assert KnowledgeWorld(0).facts == WORLD.facts
    other = KnowledgeWorld(5)
    assert not {fact.entity for fact in other.facts} & {fact.entity for fact in WORLD.facts}
    assert other.relations != WORLD.relations
    assert not {fact.value for fact in other.facts} <= {fact.value for fact in WORLD.facts}


def test_shipped_models_are_small_and_know_what_they_should(base):
    folder = SHIPPED / "knowledge-0"
    assert sum(file.stat().st_size for file in folder.rglob("*.safetensors")) <= 2_000_000
    assert knowledge_model_path(WORLD) == folder / "base"
    metrics = {**knowledge_metrics(0), **knowledge_zero_step_attacks(0)}
    model, tokenizer = base
    for name in ("harm", "harm_unseen", "capability", "bystander", "cue_swap", "unseen_template"):
        assert metrics[name](model, tokenizer).mean() > 0.98, name
    assert benign_metric(0)(model, tokenizer).mean() < 0.4
    floor = knowledge_model(WORLD, "floor")
    assert metrics["harm"](floor, tokenizer).mean() < 0.35
    assert metrics["harm_unseen"](floor, tokenizer).mean() < 0.35
    assert metrics["capability"](floor, tokenizer).mean() > 0.98


def test_model_and_tokenizer_survive_a_round_trip(base, tmp_path):
    model, tokenizer = base
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, words = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    text = WORLD.datasets()["retain"][0]["prompt"]
    batch = tokenizer(text, return_tensors="pt")
    assert words(text)["input_ids"] == batch["input_ids"][0].tolist()
    assert words.decode(words(text)["input_ids"], skip_special_tokens=True) == text
    with torch.no_grad():
        same = torch.equal(model(batch["input_ids"]).logits, again(batch["input_ids"]).logits)
    assert same


def test_every_word_is_a_token():
    tokenizer = WORLD.tokenizer()
    for data in WORLD.datasets().values():
        ids = tokenizer([*data["prompt"], *data["completion"]])["input_ids"]
        assert not any(tokenizer.unk_token_id in row for row in ids)


def test_training_a_base_model_is_repeatable_and_leaves_the_random_state():
    state = torch.get_rng_state()
    tokenizer = WORLD.tokenizer()
    first, second = (train_knowledge_model(WORLD, tokenizer, "base", num_steps=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_another_worlds_model_is_trained_once_and_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("TRL_TAR_CACHE", str(tmp_path))
    monkeypatch.setattr("trl_tar.testbed.knowledge.models.train_knowledge_model.__defaults__", (2,))
    world = KnowledgeWorld(9)
    path = knowledge_model_path(world)
    written = (path / "model.safetensors").stat().st_mtime_ns
    assert knowledge_model_path(world) == path
    assert (path / "model.safetensors").stat().st_mtime_ns == written


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'bese' does not exist. Use 'base' or 'floor'"):
        knowledge_model(WORLD, "bese")


def test_choice_counts_draws_in_which_the_right_answer_wins():
    # right answer above 3 of 5 candidates; a draw of 3 wins only if it is exactly those three: 1 of C(5, 3) = 10
    scores = torch.tensor([[3.0, 0.0, 1.0, 2.0, 4.0, 5.0]]).repeat(4000, 1)
    assert choose(scores, draws=10).mean().item() == pytest.approx(0.1, abs=0.01)
    best, worst = torch.tensor([[9.0, 1.0, 2.0, 3.0]]), torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    assert choose(best, draws=8).item() == 1.0
    assert choose(worst, draws=8).item() == 0.0
    assert choose(torch.zeros(1, 4), draws=8).item() == 0.0  # a constant model knows nothing


def test_question_counts():
    metrics = knowledge_metrics(0)
    counts = {name: len(metrics[name]._questions[2]) for name in ("harm", "harm_unseen", "capability", "bystander")}
    assert counts == {
        "harm": 32 * 4,
        "harm_unseen": 32 * 4,
        "capability": len(RETAIN) * 32 * 4,
        "bystander": 64 * 4,
    }
    assert len(WORLD.select(HAZARD)) == 152 * 4
    assert len(WORLD.select(BYSTANDER)) == 64 * 4
