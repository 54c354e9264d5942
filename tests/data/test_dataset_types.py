"""Rows of chats that TRL stops at late or trains on wrongly are refused by row and column; harmless ones are trained on."""

import json

import pytest
from datasets import Dataset
from support import tiny

from trl_tar.data.dataset_types import check_dataset
from trl_tar.data.tokenisation import tokenised_pairs, tokenised_rows


def user(content) -> dict:
    return {"role": "user", "content": content}


def assistant(content) -> dict:
    return {"role": "assistant", "content": content}


CHAT = [user("w1"), assistant("w2")]
TURNS = [{"from": "user", "value": "w1"}, {"from": "assistant", "value": "w2"}]


@pytest.fixture
def read(tmp_path):
    """Rows as `datasets` reads them from a file."""

    def read(rows: list[dict]) -> Dataset:
        file = tmp_path / "rows.jsonl"
        file.write_text("\n".join(map(json.dumps, rows)))
        return Dataset.from_json(str(file), cache_dir=str(tmp_path))

    return read


def of(column: str, *cells) -> list[dict]:
    return [{column: cell} for cell in cells]


ODD_ROLE = "Give messages with text as 'role' and 'content'"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (of("messages", CHAT, []), r"has \[\] in the column 'messages' of row 1 .*Give at least one message"),
        (of("messages", CHAT, None), "has 1 rows without a value in its column 'messages'. Leave them out"),
        (of("messages", "w1", "w2"), "has rows of type 'string' in its column 'messages'. Give messages"),
        (of("messages", CHAT, "w1"), r"has plain text and chat messages in its columns \['messages'\]"),
        (of("messages", ["w1"]), f"has 'w1' in .*{ODD_ROLE}"),
        (
            of("messages", CHAT, [user("w1"), {"role": "assistant"}]),
            f"has {{'role': 'assistant'}} in .*row 1 .*{ODD_ROLE}",
        ),
        (of("messages", CHAT, [user("w1"), assistant(None)]), f"has {{'content': None, .*row 1 .*{ODD_ROLE}"),
        (of("messages", CHAT, [user("w1"), assistant(3)]), f"has {{'content': 3, .*row 1 .*{ODD_ROLE}"),
        (of("messages", CHAT, [{"content": "w1"}]), f"has {{'content': 'w1'}} .*row 1 .*{ODD_ROLE}"),
        (of("messages", CHAT, [{"role": None, "content": "w1"}]), f"has .*'role': None}} .*row 1 .*{ODD_ROLE}"),
        (of("messages", [{"role": "human", "content": "w1"}]), "has role='human' in .*Use 'user' and 'assistant'"),
        (
            of("conversations", TURNS, [{"from": "gpt", "value": "w1"}]),
            "has from='gpt' .*row 1 .*format: conversations",
        ),
        (of("conversations", CHAT), "has .*Give messages with text as 'from' and 'value'"),
        (of("conversations", TURNS, []), r"has \[\] in the column 'conversations' of row 1"),
        (of("input_ids", [5, 6], None), "has 1 rows without a value in its column 'input_ids'"),
        ([{"messages": CHAT, "prompt": "w1"}], r"has 'prompt' beside \['messages'\], which TRL would mix up. Leave"),
        ([{"text": "w1", "prompt": "w1", "completion": " w2"}], r"has 'prompt' beside \['text'\]"),
        ([{"prompt": CHAT[:1], "completion": CHAT[1:]}, {"prompt": [], "completion": CHAT}], "has .*'prompt' of row 1"),
        (
            [{"prompt": CHAT[:1], "completion": CHAT[1:]}, {"prompt": CHAT, "completion": []}],
            "has .*'completion' of row 1",
        ),
        ([{"prompt": ["w1"], "completion": ["w2"]}], f"has 'w2' in the column 'completion' of row 0 .*{ODD_ROLE}"),
        ([{"prompt": user("w1"), "completion": assistant("w2")}], "has {.*} in the column 'completion' of row 0"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_refused(read, rows, message):
    with pytest.raises(ValueError, match=f"^`data` {message}"):
        check_dataset("data", read(rows), preference=False)


def pair(prompt, chosen, rejected) -> dict:
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


GOOD_PAIR = pair(CHAT[:1], CHAT[1:], [assistant("w3")])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([GOOD_PAIR, {**GOOD_PAIR, "prompt": []}], r"has \[\] in the column 'prompt' of row 1"),
        ([GOOD_PAIR, {**GOOD_PAIR, "chosen": []}], r"has \[\] in the column 'chosen' of row 1"),
        ([GOOD_PAIR, {**GOOD_PAIR, "rejected": [assistant(None)]}], f"has .*'rejected' of row 1 .*{ODD_ROLE}"),
        ([GOOD_PAIR, {**GOOD_PAIR, "rejected": None}], "has 1 rows without a value in its column 'rejected'"),
        ([GOOD_PAIR, {**GOOD_PAIR, "rejected": "w3"}], "has plain text and chat messages in its columns"),
        ([{**GOOD_PAIR, "prompt": "w1"}], "has plain text and chat messages in its columns"),
        ([{**GOOD_PAIR, "messages": "w5"}], "has plain text and chat messages in its columns"),
        ([{"chosen": CHAT, "rejected": "w1 w3"}], "has plain text and chat messages in its columns"),
        (
            [
                {"chosen": CHAT, "rejected": [CHAT[0], assistant("w3")]},
                {"chosen": CHAT, "rejected": [user("w4"), CHAT[1]]},
            ],
            "has no column 'prompt', and in row 1 .*do not begin with the same message. Add the prompt to both",
        ),
        ([{"prompt_ids": [5], "chosen_ids": [6], "rejected_ids": None}], "has 1 rows without .*'rejected_ids'"),
    ],
)
def test_a_pair_that_cannot_be_trained_on_is_refused(read, rows, message):
    with pytest.raises(ValueError, match=f"^`data` {message}"):
        check_dataset("data", read(rows), preference=True)


def words(ids: list[int]) -> str:
    return " ".join("_" if i < 0 else tiny.VOCABULARY[i] for i in ids)


@pytest.mark.parametrize(
    ("rows", "labels"),
    [
        (of("messages", CHAT, CHAT[:1]), ["user w1 assistant w2 <eos>", "user w1"]),
        (of("conversations", TURNS), ["user w1 assistant w2 <eos>"]),
        ([{"messages": CHAT, "text": "w5", "prompt_id": None}], ["user w1 assistant w2 <eos>"]),
        ([{"text": "w1", "completion": None}, {"text": "w2", "completion": "w3"}], ["w1 <eos>", "w2 <eos>"]),
        ([{"prompt": "", "completion": "w2"}, {"prompt": "w1", "completion": ""}], ["w2 <eos>", "_ <eos>"]),
    ],
)
def test_harmless_rows_are_trained_on(read, tmp_path, rows, labels):
    data = read(rows)
    check_dataset("data", data, preference=False)
    trained = tokenised_rows(tiny.make_trainer(tmp_path), data, "data")
    assert [words(row["labels"]) for row in trained] == labels


@pytest.mark.parametrize(
    "row",
    [
        GOOD_PAIR,
        {"chosen": CHAT, "rejected": [CHAT[0], assistant("w3")]},
        {"chosen": CHAT, "rejected": [CHAT[0], assistant("w3")], "messages": CHAT, "text": "w5"},
    ],
)
def test_harmless_pairs_are_trained_on(read, tmp_path, row):
    check_dataset("data", read([row]), preference=True)
    (trained,) = tokenised_pairs(tiny.make_trainer(tmp_path), read([row]), "data")
    found = [words(trained[name]) for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
    assert found == ["user w1 assistant", "w2 <eos>", "w3 <eos>"]


def test_an_answer_of_tool_calls_needs_no_content():
    call = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    messages = [user("w1"), {"role": "assistant", "content": None, "tool_calls": call}]
    check_dataset("data", Dataset.from_list(of("messages", messages)), preference=False)
