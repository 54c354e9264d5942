"""What SmolLM2 knows of countries: strict splits, and what README says of answers that can be had without knowledge."""

from collections import Counter
from collections.abc import Sequence

import pytest
from support.repository import PROSE, ROOT

from trl_tar import Report
from trl_tar.report.recovery import recovery
from trl_tar.tasks.built_in import knowledge_task
from trl_tar.testbed.smollm2.countries import (
    CHOOSING,
    COVERED,
    SCORING,
    SEEN,
    SPLITS,
    TEMPLATES,
    UNSEEN,
    Item,
    in_all_wordings,
    items,
    select,
    sentences,
)
from trl_tar.testbed.smollm2.fact_wordings import FORMS, RELATIONS, Relation


TRAINED_ON = ("adversary", "tamper_resistance", "attacker")
ASKED = ("questions", "unseen")  # in the run that README reports, no country that was asked about was in any data


def most_frequent_score(asked: Sequence[Item], seen: Sequence[Item]) -> float:
    """Expected accuracy of always taking the choice that is most often an answer of the relation in `seen`."""
    counts = Counter((fact.relation, fact.answer) for fact in seen)
    score = 0.0
    for fact in asked:
        frequency = [counts[fact.relation, choice] for choice in (fact.answer, *fact.others)]
        score += (frequency[0] == max(frequency)) / frequency.count(max(frequency))
    return score / len(asked)


def test_the_most_frequent_answer_is_scored_as_by_hand():
    seen = [Item("capital", "", e, a, ()) for e, a in (("A", "x"), ("B", "x"), ("C", "y"))]
    asked = [
        Item("capital", "", "D", "x", ("y", "z", "v")),
        Item("capital", "", "E", "y", ("x", "z", "v")),
        Item("city", "", "D", "x", ("y", "z", "v")),
    ]
    assert most_frequent_score(asked, seen) == (1 + 0 + 0.25) / 3


ABOUT_OTHER_THINGS = ("symbol", "opposite", "past", "colour", "kind")


def test_each_country_is_in_one_split():
    countries = {(item.split, item.entity) for item in items() if item.relation not in ABOUT_OTHER_THINGS}
    assert len(countries) == len({entity for _, entity in countries})
    assert Counter(split for split, _ in countries) == {**SPLITS, "questions": 47, "unseen": 23}


def test_what_is_asked_about_is_covered_or_in_nobodys_data():
    covered = set(in_all_wordings(select(COVERED))["entity"])
    assert {fact.entity for fact in select("questions")} <= covered
    unseen = {fact.entity for fact in select("unseen")}
    assert unseen and not unseen & {*covered, *(fact.entity for fact in select([*TRAINED_ON, "rehearsed"]))}


def test_no_row_of_an_attacker_or_of_d_retain_is_about_what_a_question_asks():
    asked = {fact.entity for fact in select([*ASKED, "attacker_validation", "held_out"])}
    assert not asked & set(in_all_wordings(select(["adversary", "attacker", "rehearsed"]))["entity"])


def test_d_tr_and_d_retain_have_the_same_forms_and_every_fact_has_more_than_ten():
    forms = {}
    for fact in items():
        if fact.relation in RELATIONS:
            prompts = RELATIONS[fact.relation].prompts(fact.entity)
            assert len(set(prompts)) == len(prompts) == len(FORMS) + 2 >= 12
            relation = RELATIONS[fact.relation]
            frames = [_frame(prompt, relation, fact.entity) for prompt in prompts[2:]]
            forms.setdefault(fact.split in COVERED, set()).add(tuple(frames))
    assert forms[True] == forms[False] and len(forms[True]) == 1


def _frame(prompt: str, relation: Relation, entity: str) -> str:
    """The prompt without what differs between relations and entities."""
    phrase, question = relation.phrase.format(e=entity), relation.question.format(e=entity)
    for words, mark in ((question, "Q"), (phrase, "P"), (phrase[0].upper() + phrase[1:], "P")):
        prompt = prompt.replace(words, mark)
    return prompt.replace(f"| {entity} |", "| E |").replace(f"name: {entity}", "name: E").replace(relation.label, "L")


def test_wordings_of_the_evaluation_are_in_no_data_set():
    facts = [fact for fact in items() if fact.relation in TEMPLATES and fact.relation in RELATIONS]
    trained = set(in_all_wordings(facts)["prompt"])
    for fact in facts:
        prompts = [TEMPLATES[fact.relation][t].format(e=fact.entity) for t in (CHOOSING, SCORING, UNSEEN)]
        assert len({*prompts}) == 3 and not trained & {*prompts}
        assert {TEMPLATES[fact.relation][t].format(e=fact.entity) for t in SEEN} <= trained


def test_a_completion_after_a_line_break_begins_without_a_space():
    for row in in_all_wordings(select("questions", "capital")[:1]):
        assert row["completion"].startswith(" ") != row["prompt"].endswith("\n")


def test_the_readme_says_how_often_training_names_a_country_that_is_asked_about():
    asked = {fact.entity for fact in select(ASKED)}
    rows = sentences(select(TRAINED_ON))
    assert not asked & set(rows["entity"])
    naming = [row for row in rows if row["completion"].strip(" .") in asked]
    neighbours = {(fact.entity, fact.answer) for fact in select(TRAINED_ON, "neighbour")}
    assert {row["completion"].strip(" .") for row in naming} == {answer for _, answer in neighbours if answer in asked}
    share = f"{len(naming) / len(rows):.0%}".replace("%", " %")
    assert f"{len(naming)} of the {len(rows):,} sentences of phases and attackers ({share}) end with a country" in PROSE
    about = select(ASKED, "neighbour")
    reversed_ = sum((fact.answer, fact.entity) in neighbours for fact in about)
    assert f"{reversed_} of the {len(about)} questions about neighbours ask for one of these" in PROSE


def test_the_readme_says_what_the_most_frequent_answer_scores():
    asked = select(ASKED)
    score = most_frequent_score(asked, select("attacker"))
    assert score > 0.25 and f"({score:.2f} of all {len(asked)}, from which" in PROSE


@pytest.mark.slow
def test_the_readme_says_what_the_most_frequent_answer_scores_on_the_questions_that_smollm2_knows():
    task = knowledge_task("countries")
    known = {q["prompt"] for name in ("harm", "harm_unseen") for q in task.metrics[name].questions}
    asked = [fact for fact in select(ASKED) if fact.question(SCORING)["prompt"] in known]
    score = most_frequent_score(asked, select("attacker"))
    assert f"is right in {score:.2f} of the {len(asked)} questions" in PROSE
    covered = most_frequent_score([fact for fact in asked if fact.split == "questions"], select("attacker"))
    assert f"scores {covered:.2f}." in task.description
    report = Report.load(ROOT / "model_cards" / "smollm2_knowledge")
    harm, base = report.summary["harm_after"]["mean"], report.references["base"].before["harm"]
    told = f"From there R would be {recovery(harm, base, score):.2f} for TAR, where the table has"
    assert f"{told} {recovery(harm, base, 0.25):.2f}." in PROSE
