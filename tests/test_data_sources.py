"""Data sets that a YAML file names: local files with the columns of the Hub's, and one sentence for what cannot be read."""

import json
import random

import pytest
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError
from transformers import AutoTokenizer

from trl_tar import data_sources
from trl_tar.data_sources import DataSource, load_datasets
from trl_tar.testbed.refusal import RefusalWorld


@pytest.fixture
def written(tmp_path):
    def write(name: str, rows: list[dict]) -> str:
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return name

    write.folder = tmp_path
    return write


def load(written, content, **fields):
    described = {"path": written("rows.jsonl", content), **fields}
    return load_datasets({"data": described}, written.folder)["data"]


TURNS = "\n\nHuman: how?\n\nAssistant: so\n\nHuman: and then?\n\nAssistant: "
ASKED = [
    {"role": "user", "content": "how?"},
    {"role": "assistant", "content": "so"},
    {"role": "user", "content": "and then?"},
]


@pytest.mark.parametrize(
    ("format", "row", "expected"),
    [
        ("text_chunks", {"text_chunk": "abc", "more": 1}, {"text": "abc"}),
        ("hazardous_chunks", {"txt_chunk": "abc", "label": True}, {"text": "abc"}),
        ("harmless_chunks", {"txt_chunk": "abc", "label": False}, {"text": "abc"}),
        (
            "conversations",
            {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": " yo "}], "id": 3},
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": " yo "}]},
        ),
        (
            "dialogues",
            {"chosen": TURNS + "no", "rejected": TURNS + "so and so"},
            {
                "prompt": ASKED,
                "chosen": [{"role": "assistant", "content": "no"}],
                "rejected": [{"role": "assistant", "content": "so and so"}],
            },
        ),
        (
            "harmful_dialogues",
            {"chosen": TURNS + "no", "rejected": TURNS + "so and so"},
            {"prompt": ASKED, "completion": [{"role": "assistant", "content": "so and so"}]},
        ),
        (
            "harmful_answers",
            {"prompt": "how?", "chosen": "so", "rejected": "no"},
            {"prompt": ASKED[:1], "completion": [{"role": "assistant", "content": "so"}]},
        ),
    ],
)
def test_columns_of_the_hub_become_trls(written, format, row, expected):
    dataset = load(written, [row], format=format)
    assert dataset.to_list() == [expected]


def test_rows_of_the_other_label_are_left_out(written):
    rows = [{"txt_chunk": str(i), "label": i % 3 == 0} for i in range(9)]
    for format, wanted in [("hazardous_chunks", "036"), ("harmless_chunks", "124578")]:
        assert sorted(load(written, rows, format=format)["text"]) == list(wanted)


def test_shares_are_disjoint_whole_and_the_same_each_time(written):
    rows = [{"text": str(i)} for i in range(50)]
    first, second = (load(written, rows, rows=share)["text"][:] for share in ([0, 0.8], ["0.8", 1]))
    assert len(first) == 40 and sorted(map(int, [*first, *second])) == list(range(50))
    assert load(written, rows, rows=[0, 0.8])["text"][:] == first != sorted(first, key=int)
    assert load(written, rows, rows=[0, 0.8], limit=3)["text"][:] == first[:3]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (3, "Data set 'data' is 3. Give path and, if need be, format, split"),
        ({"file": "a.jsonl"}, "Give path"),
        ({"path": "a.jsonl"}, "Data set 'data' is .*a.jsonl'. Give an existing file, .json"),
        ({"path": "rows.jsonl", "format": "chatml"}, "has format='chatml'. Use one of text_chunks"),
        ({"path": "rows.jsonl", "rows": [0.5, 0.2]}, r"has rows=\[0.5, 0.2\]. Give two shares"),
        ({"path": "rows.jsonl", "rows": 0.8}, r"has rows=0.8. Give two shares, such as \[0, 0.8\]"),
        ({"path": "rows.jsonl", "rows": [0, 0.5, 1]}, r"has rows=\[0, 0.5, 1\]. Give two shares"),
        ({"path": "rows.jsonl", "limit": "abc"}, "has limit='abc'. Give limit as a whole number"),
        ({"path": "rows.jsonl", "limit": 1.5}, "has limit=1.5. Give limit as a whole number"),
        ({"path": "rows.jsonl", "format": ["text_chunks"]}, r"has format=\['text_chunks'\]. Give format as str"),
        ({"path": 5}, "Data set 'data' has path=5. Give path as str"),
        ({"path": "who/what", "split": None}, "has split=None. Give split as str"),
        ({"path": "rows.jsonl", "rows": ["half", 1]}, "has rows='half'. Give rows as a number"),
        ({"path": "rows.jsonl", "format": "text_chunks"}, r"has the columns \['text'\], without 'text_chunk'"),
        ({"path": "rows.jsonl", "limit": 0}, "has 0 rows. Check its format, rows and limit"),
        ({"path": "empty.jsonl"}, "has 0 rows. Check the file"),
        ({"path": "who/what"}, "cannot be read from 'who/what' .*Check its spelling, split and your connection"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(written, described, message):
    written("rows.jsonl", [{"text": "a"}])
    written("empty.jsonl", [])
    with pytest.raises(ValueError, match=message):
        load_datasets({"data": described}, written.folder)


def test_a_gated_data_set_is_told_from_a_missing_one(monkeypatch):
    """As `datasets` raises it; the Hub cannot be asked here."""

    def refuse(*arguments, **keywords):
        raise DatasetNotFoundError("Dataset 'who/what' is a gated dataset on the Hub.") from GatedRepoError.__new__(
            GatedRepoError
        )

    monkeypatch.setattr(data_sources, "load_dataset", refuse)
    with pytest.raises(ValueError, match="'who/what', which is gated. Ask for access on its page, then log in"):
        DataSource("who/what").load("data")


@pytest.mark.parametrize(
    ("format", "row", "message"),
    [
        ("conversations", {"conversations": [{"from": "narrator", "value": "once"}]}, "has a turn from 'narrator'"),
        ("dialogues", {"chosen": "yes", "rejected": TURNS + "no"}, "has the dialogue 'yes'. Each must begin"),
        ("dialogues", {"chosen": TURNS + "a\n\nHuman: b", "rejected": TURNS + "no"}, "end with one of 'Assistant'"),
    ],
)
def test_turns_that_make_no_conversation_are_refused(written, format, row, message):
    with pytest.raises(ValueError, match=message):
        load(written, [row], format=format)


def _odd_text(rng: random.Random) -> str:
    pieces = [
        "<|end|>",
        "<s>",
        "</s>",
        "<|im_start|>",
        " ",
        "  ",
        "\n",
        "\t",
        "🦜",
        "👩‍🚀",
        "é",
        "e\u0301",
        "שלום",
        "مرحبا",
    ]
    pieces += ["word", "{{x}}", "{% if %}", "\\n", "'", '"', "\u200b", "Human:", "0"]
    return rng.choice(["", " "]) + "".join(rng.choices(pieces, k=rng.randint(1, 12)))


def test_loaders_never_alter_text(written):
    rng = random.Random(0)
    for _ in range(50):
        question, answer = _odd_text(rng), _odd_text(rng)
        conversation = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        (row,) = load(written, [{"conversations": conversation}], format="conversations")
        assert [turn["content"] for turn in row["messages"]] == [question, answer]
        dialogue = f"\n\nHuman: {question}\n\nAssistant: {answer}"
        (row,) = load(written, [{"chosen": dialogue, "rejected": dialogue}], format="dialogues")
        assert (row["prompt"][0]["content"], row["chosen"][0]["content"]) == (question, answer)
        (row,) = load(written, [{"text_chunk": question}], format="text_chunks")
        assert row["text"] == question


def test_a_world_tokenizer_reads_what_a_file_kept(written):
    world = RefusalWorld(0)
    rows = world.datasets()["forget"].to_list()[:5]
    tokenizer = world.tokenizer()
    tokenizer.save_pretrained(written.folder / "tokenizer")
    loaded = AutoTokenizer.from_pretrained(written.folder / "tokenizer")
    kept = {row["entity"] + row["prompt"][0]["content"]: row for row in load(written, rows)}
    for before in rows:
        after = kept[before["entity"] + before["prompt"][0]["content"]]
        chat = [*before["prompt"], *before["completion"]]
        ids = tokenizer.apply_chat_template(chat, return_dict=False)
        assert ids == loaded.apply_chat_template([*after["prompt"], *after["completion"]], return_dict=False)
