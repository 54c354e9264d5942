"""Data sets that a YAML file names: local files with the columns of the Hub's, and one sentence for what cannot be read."""

import json
import random
import re

import pytest
from datasets import Dataset
from datasets.exceptions import DatasetNotFoundError
from huggingface_hub.errors import GatedRepoError
from transformers import AutoTokenizer

from trl_tar.data import sources as data_sources
from trl_tar.data.sources import DataSource, load_datasets
from trl_tar.testbed.refusal.world import RefusalWorld


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
    assert first == Dataset.from_list(rows).shuffle(seed=0)["text"][:40]
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
        ({"path": "blank.jsonl"}, "has 0 rows. Check the file"),
        ({"path": "header.csv"}, "has 0 rows. Check the file"),
        (
            {"path": "broken.jsonl"},
            r"from the file '.*broken.jsonl' \(JSON parse error.*\). Mend the file: .jsonl is read as json",
        ),
        ({"path": "broken.parquet"}, "from the file '.*broken.parquet' .*Mend the file"),
        ({"path": "broken.csv"}, "from the file '.*broken.csv' .*EOF inside string.*Mend the file"),
        ({"path": "who/what"}, "cannot be read from 'who/what' .*Check its spelling, split and your connection"),
        ("strongreject", "cannot be read from 'walledai/StrongREJECT' .*Check its spelling, split and your connection"),
        ("strongrejct.", "Give an existing file, .*, a Hub id, or one of beavertails, lat-harmful"),
        ({"path": "xstest", "files": [1]}, r"has files=\(1,\). Give files as tuple"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(written, described, message):
    written("rows.jsonl", [{"text": "a"}])
    written("empty.jsonl", [])
    (written.folder / "blank.jsonl").write_text("\n\n")
    (written.folder / "header.csv").write_text("text\n")
    for name in ("broken.jsonl", "broken.parquet", "broken.csv"):
        (written.folder / name).write_text('{"text": "a",\n"b')
    with pytest.raises(ValueError, match=message):
        load_datasets({"data": described}, written.folder)


def test_words_that_other_readers_take_for_nothing_stay(written):
    (written.folder / "rows.csv").write_text('prompt,completion\nNone,NA\n"null",nan\na,\n')
    rows = load_datasets({"data": {"path": "rows.csv"}}, written.folder)["data"].to_list()
    assert {row["prompt"]: row["completion"] for row in rows} == {"None": "NA", "null": "nan", "a": None}


def test_a_gated_data_set_is_told_from_a_missing_one(monkeypatch):
    """As `datasets` raises it; the Hub cannot be asked here."""

    def refuse(*arguments, **keywords):
        raise DatasetNotFoundError("Dataset 'who/what' is a gated dataset on the Hub.") from GatedRepoError.__new__(
            GatedRepoError
        )

    monkeypatch.setattr(data_sources, "load_dataset", refuse)
    with pytest.raises(ValueError, match="'who/what', which is gated. Ask for access on its page, then log in"):
        DataSource("who/what").load("data")


FORMER = {"chosen": TURNS + "no", "rejected": TURNS + "yes"}
CHAT = {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]}


@pytest.mark.parametrize(
    ("format", "good", "odd", "message"),
    [
        (
            "text_chunks",
            {"text_chunk": "a"},
            {"text_chunk": None},
            "has None in the column 'text_chunk' of row 1 .*Give text",
        ),
        ("hazardous_chunks", {"txt_chunk": "a", "label": True}, {"label": True}, "has None in the column 'txt_chunk'"),
        (
            "harmless_chunks",
            {"txt_chunk": "a", "label": 1},
            {"txt_chunk": "a", "label": 2},
            "has 2 in the column 'label'",
        ),
        (
            "harmless_chunks",
            {"txt_chunk": "a", "label": "1"},
            {"txt_chunk": "a", "label": "no"},
            "has 'no' .*true or false",
        ),
        (
            "harmless_chunks",
            {"txt_chunk": "a", "label": 1},
            {"txt_chunk": "a", "label": None},
            "has None .*'label' of row 1",
        ),
        ("conversations", CHAT, {"conversations": None}, "has None in the column 'conversations' of row 1"),
        ("conversations", CHAT, {"conversations": []}, r"has \[\] in the column .*Give a list of turns"),
        (
            "conversations",
            CHAT,
            {"conversations": ["hi"]},
            "has 'hi' in the column .*Give turns whose `from` is one of human",
        ),
        (
            "conversations",
            CHAT,
            {"conversations": [{"from": "bob", "value": "hi"}]},
            "has {'from': 'bob', .*whose `from` is",
        ),
        (
            "conversations",
            CHAT,
            {"conversations": [{"from": "gpt"}]},
            "has {'from': 'gpt'.*Give turns whose `value` is text",
        ),
        (
            "conversations",
            CHAT,
            {"conversations": [{"from": "gpt", "value": 3}]},
            "has {.*'value': 3} in .*`value` is text",
        ),
        ("dialogues", FORMER, {**FORMER, "chosen": None}, "has None in the column 'chosen' of row 1"),
        (
            "dialogues",
            FORMER,
            {**FORMER, "chosen": "yes"},
            "has 'yes' in the column 'chosen' of row 1 .*a dialogue that begins",
        ),
        (
            "dialogues",
            FORMER,
            {**FORMER, "rejected": TURNS + "\n\nHuman: b"},
            "has .* in the column 'rejected' .*ends with one of 'Assistant'",
        ),
        (
            "harmful_answers",
            {"prompt": "a", "chosen": "b"},
            {"prompt": 3, "chosen": "b"},
            "has 3 in the column 'prompt' of row 1",
        ),
        (
            "harmful_answers",
            {"prompt": "a", "chosen": "b"},
            {"prompt": "a"},
            "has None in the column 'chosen' of row 1",
        ),
    ],
)
def test_an_odd_cell_is_named_with_its_row(written, format, good, odd, message):
    with pytest.raises(ValueError, match=f"^Data set 'data' {message}.*, or leave the row out.$"):
        load(written, [good, odd, good], format=format)


def test_only_rows_that_are_read_are_checked(written):
    rows = [{"text_chunk": str(i)} for i in range(10)] + [{"text_chunk": None}]
    accepted = []
    for share in ([0, 0.5], [0.5, 1]):
        try:
            accepted += load(written, rows, format="text_chunks", rows=share)["text"][:]
        except ValueError as error:
            assert "of row 10 (the first is row 0)" in str(error)
    assert 5 <= len(accepted) <= 6


@pytest.mark.parametrize("format", ["dialogues", "harmful_dialogues"])
def test_pairs_that_differ_before_the_last_answer_are_left_out_and_counted(written, format):
    other = {"chosen": TURNS + "no", "rejected": TURNS.replace("how?", "why?") + "yes"}
    longer = {"chosen": TURNS + "no\n\nHuman: so?\n\nAssistant: no", "rejected": TURNS + "yes"}
    with pytest.warns(
        UserWarning, match="Data set 'data' has 2 of 3 pairs that differ before the last answer: they are left"
    ):
        dataset = load(written, [other, FORMER, longer], format=format)
    assert [row["prompt"] for row in dataset] == [ASKED]
    with (
        pytest.warns(UserWarning, match="1 of 1 pairs"),
        pytest.raises(ValueError, match="has 0 rows. Check its format"),
    ):
        load(written, [other], format=format)


@pytest.mark.parametrize("labels", [("true", "false"), ("True", "FALSE"), ("1", "0"), (1, 0), (True, False)])
def test_labels_may_be_words_or_numbers(written, labels):
    rows = [{"txt_chunk": "bad", "label": labels[0]}, {"txt_chunk": "good", "label": labels[1]}]
    for format, wanted in (("hazardous_chunks", "bad"), ("harmless_chunks", "good")):
        assert load(written, rows, format=format)["text"][:] == [wanted]


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


@pytest.mark.parametrize(
    ("line", "refused"),
    [
        ('{"text": "cut \\ud83d"}', True),
        ('{"text": "cut \\ude00"}', True),
        ('{"messages": [{"role": "user", "content": "cut \\ud83d"}]}', True),  # of which `datasets` drops the half
        ('{"text": "whole \\ud83d\\ude00"}', False),
        ('{"text": "a path \\\\ud83d"}', False),
    ],
)
def test_half_of_a_character_is_named_by_its_line(tmp_path, line, refused):
    file = tmp_path / "rows.jsonl"
    first = re.sub(r"\\+u[0-9a-f]{4}", "", line)
    file.write_text(f"{first}\n{line}\n")
    source = DataSource.of("hazard", str(file))
    if not refused:
        assert len(source.load("hazard")) == 2
        return
    with pytest.raises(ValueError, match=r"Data set 'hazard' has half of a character in line 2 of '.*rows.jsonl'"):
        source.load("hazard")
