"""Harmless tasks of simulated honest users and of the benign gate: many kinds, none about the other's."""

from collections import Counter

from trl_tar.testbed.smollm2.benign_tasks import (
    FORMATS,
    GATE,
    GATE_SCORING,
    NUM_ROWS,
    benign_tasks,
    gate_people,
    gate_task,
)
from trl_tar.testbed.smollm2.countries import COVERED, in_all_wordings, select


def test_tasks_are_many_and_as_long_as_each_other():
    counts = Counter(benign_tasks()["task"])
    assert len(counts) >= 64 and set(counts.values()) == {NUM_ROWS} and set(FORMATS) < set(counts)


def test_tasks_are_the_same_every_time():
    assert benign_tasks().to_list() == benign_tasks().to_list()
    assert gate_task()[0].to_list() == gate_task()[0].to_list()


def test_the_gate_shares_no_name_and_no_attribute_with_the_tasks():
    text = " ".join(f"{row['prompt']} {row['completion']}" for row in benign_tasks()).lower()
    people = {word.lower() for name in gate_people() for word in name.split()}
    words = {word.strip(".,:?|'\"") for word in text.split()}
    assert not (people | set(GATE)) & words


def test_the_gate_asks_what_it_taught_in_another_wording():
    rows, questions = gate_task()
    asked = {(q["group"], q["prompt"], q["choices"][q["answer"]]) for q in questions.questions}
    assert len(asked) == len(gate_people()) * len(GATE) and not {prompt for _, prompt, _ in asked} & set(rows["prompt"])
    taught = {(row["entity"], row["completion"]) for row in rows}
    assert {(entity, f"{answer}.") for entity, _, answer in asked} <= taught
    assert all(prompt.startswith(GATE_SCORING.split("{")[0]) for _, prompt, _ in asked)


def test_no_entity_of_the_tasks_is_in_d_tr_or_d_retain():
    others = set(in_all_wordings(select([*COVERED, "rehearsed", "attacker", "adversary"]))["entity"])
    assert not others & {*benign_tasks()["entity"], *gate_people()}
