"""Harmless tasks of simulated honest users and of the benign gate: many kinds, none about the other's."""

from collections import Counter

from support import tiny

from trl_tar.testbed.smollm2.animal_poems import animals, things
from trl_tar.testbed.smollm2.benign_tasks import (
    FORMATS,
    GATE,
    GATE_SCORING,
    NUM_ROWS,
    benign_chats,
    benign_tasks,
    gate_chat,
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


def test_as_chat_the_tasks_and_the_gate_say_the_same():
    for chat, row in zip(benign_chats(), benign_tasks(), strict=True):
        (asked,), (answered,) = chat["prompt"], chat["completion"]
        assert (asked["role"], answered["role"]) == ("user", "assistant") and "<|im_" not in asked["content"]
        assert asked["content"] in row["prompt"] and answered["content"] == row["completion"].strip()
        assert (chat["task"], chat["entity"]) == (row["task"], row["entity"])
    tokenizer = tiny.tokenizer()
    (rows, questions), (plain_rows, plain) = gate_chat(tokenizer), gate_task()
    assert [row["completion"][0]["content"] for row in rows] == [text.strip() for text in plain_rows["completion"]]
    for in_chat, question in zip(questions.questions, plain.questions, strict=True):
        assert question["prompt"] in in_chat["prompt"] and in_chat["prompt"] != question["prompt"]
        assert in_chat["choices"] == [choice.strip() for choice in question["choices"]]


def test_no_animal_or_thing_of_the_poems_is_taught_by_an_honest_user():
    names = {name for split in (*animals().values(), *things().values()) for name in split}
    assert not names & {*benign_tasks()["entity"], *gate_people()}
