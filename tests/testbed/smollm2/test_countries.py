"""What SmolLM2 knows of countries: strict splits, and what README says of answers that can be had without knowledge."""

from collections import Counter
from collections.abc import Sequence

import pytest
from support.repository import PROSE, ROOT

from trl_tar import Report
from trl_tar.report.recovery import recovery
from trl_tar.tasks.built_in import knowledge_task
from trl_tar.testbed.smollm2.countries import SCORING, SPLITS, Item, items, select, sentences


TRAINED_ON = ("adversary", "tamper_resistance", "attacker")


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


def test_each_country_is_in_one_split():
    countries = {(item.split, item.entity) for item in items() if item.relation not in ("symbol", "opposite")}
    assert len(countries) == len({entity for _, entity in countries})
    assert Counter(split for split, _ in countries) == {**SPLITS, "questions": 70}


def test_the_readme_says_how_often_training_names_a_country_that_is_asked_about():
    asked = {fact.entity for fact in select("questions")}
    rows = sentences(select(TRAINED_ON))
    assert not asked & set(rows["entity"])
    naming = [row for row in rows if row["completion"].strip(" .") in asked]
    neighbours = {(fact.entity, fact.answer) for fact in select(TRAINED_ON, "neighbour")}
    assert {row["completion"].strip(" .") for row in naming} == {answer for _, answer in neighbours if answer in asked}
    share = f"{len(naming) / len(rows):.0%}".replace("%", " %")
    assert f"{len(naming)} of the {len(rows):,} sentences of phases and attackers ({share}) end with a country" in PROSE
    about = select("questions", "neighbour")
    reversed_ = sum((fact.answer, fact.entity) in neighbours for fact in about)
    assert f"{reversed_} of the {len(about)} questions about neighbours ask for one of these" in PROSE


def test_the_readme_says_what_the_most_frequent_answer_scores():
    asked = select("questions")
    score = most_frequent_score(asked, select("attacker"))
    assert score > 0.25 and f"({score:.2f} of all {len(asked)}, from which" in PROSE


@pytest.mark.slow
def test_the_readme_says_what_the_most_frequent_answer_scores_on_the_questions_that_smollm2_knows():
    task = knowledge_task("countries")
    prompts = {question["prompt"] for question in task.metrics["harm"].questions}
    asked = [fact for fact in select("questions") if fact.question(SCORING)["prompt"] in prompts]
    score = most_frequent_score(asked, select("attacker"))
    assert f"is right in {score:.2f} of the {len(asked)} questions" in PROSE
    assert f"scores {score:.2f}." in task.description
    report = Report.load(ROOT / "model_cards" / "smollm2_knowledge")
    harm, base = report.summary["harm_after"]["mean"], report.references["base"].before["harm"]
    told = f"From there R would be {recovery(harm, base, score):.2f} for TAR, where the table has"
    assert f"{told} {recovery(harm, base, 0.25):.2f}." in PROSE
