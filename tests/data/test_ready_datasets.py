"""Data sets by one word: stand-in rows with the columns of the Hub's, from a Hub on loopback, at the commits of the table."""

import io
import json
import re

import pandas
import pytest
from support.hub_server import Repository
from support.repository import ROOT

from trl_tar.data.ready_datasets import READY_DATASETS
from trl_tar.data.sources import DataSource, read_from
from trl_tar.evaluation.named_judges import READY_JUDGES
from trl_tar.tasks.from_yaml import metric_of


def parquet(rows: list[dict]) -> bytes:
    content = io.BytesIO()
    pandas.DataFrame(rows).to_parquet(content)
    return content.getvalue()


def lines(rows: list[dict]) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


def card(files: dict[str, str], name: str = "default") -> bytes:
    """What says in a data set's folder which file is which split."""
    splits = "".join(f"  - split: {split}\n    path: {file}\n" for split, file in files.items())
    return f"---\nconfigs:\n- config_name: {name}\n  data_files:\n{splits}---\n".encode()


def asked(text: str) -> dict:
    return {"prompt": [{"role": "user", "content": text}]}


def answered(text: str, answer: str) -> dict:
    return {**asked(text), "completion": [{"role": "assistant", "content": answer}]}


GOAL = {"Index": 0, "Goal": "Count.", "Target": "Sure", "Behavior": "b", "Category": "c", "Source": "s"}
JAILBREAKBENCH = {
    "README.md": card({"harmful": "data/harmful.csv", "benign": "data/benign.csv"}, "behaviors"),
    **{
        f"data/{split}.csv": pandas.DataFrame([{**GOAL, "Goal": goal}]).to_csv(index=False).encode()
        for split, goal in (("harmful", "Count."), ("benign", "Sort."))
    },
}
XSTEST = {"prompt": "Kill the lights?", "focus": "kill", "type": "homonyms", "note": "", "label": "safe"}
SORRY = {"question_id": 1, "category": "1", "turns": ["Count."], "prompt_style": "base"}
BEAVERS = {"prompt": "Count.", "category": {"a": True}}
STANDARD = parquet([{"prompt": "Count.", "category": "c"}])
# name → files of the repository, and the rows that they become
ON_THE_HUB = {
    "beavertails": (
        {
            "README.md": card({"30k_train": "round0/30k/train.jsonl"}),
            "round0/30k/train.jsonl": lines(
                [{**BEAVERS, "response": r, "is_safe": safe} for r, safe in (("One.", False), ("No.", True))]
            ),
        },
        [answered("Count.", "One.")],
    ),
    "lat-harmful": (
        {"data/train-00000-of-00001.parquet": parquet([{"prompt": "Count.", "rejected": "One.", "chosen": "No."}])},
        [answered("Count.", "One.")],
    ),
    "hex-phi": (
        {f"category_{n}.csv": f'"Count, {n}."\n'.encode() for n in (1, *range(3, 12))},
        [asked(f"Count, {n}.") for n in (1, *range(3, 12))],
    ),
    "strongreject": (
        {"data/train-00000-of-00001.parquet": parquet([{"prompt": "Count.", "category": "c", "source": "s"}])},
        [asked("Count.")],
    ),
    "harmbench": (
        {"README.md": card({"train": "standard/train-*"}, "standard"), "standard/train-0.parquet": STANDARD},
        [asked("Count.")],
    ),
    "jailbreakbench": (JAILBREAKBENCH, [asked("Count.")]),
    "jailbreakbench-benign": (JAILBREAKBENCH, [asked("Sort.")]),
    "sorry-bench": (
        {
            "question.jsonl": lines([SORRY, {**SORRY, "prompt_style": "slang"}]),
            "question_morse.jsonl": lines([{**SORRY, "turns": ["-.-."]}]),
        },
        [asked("Count.")],
    ),
    "xstest": (
        {
            "README.md": card({"test": "data/train-*"}),
            "data/train-0.parquet": parquet([XSTEST, {**XSTEST, "label": "unsafe", "type": "contrast_homonyms"}]),
        },
        [asked("Kill the lights?")],
    ),
}


@pytest.fixture
def ready(datasets_hub):
    """At the commits of the table the stand-in rows, and something else since then."""
    for name, (files, _) in ON_THE_HUB.items():
        source = READY_DATASETS[name].source
        repository = datasets_hub.repositories.setdefault(f"datasets/{source['path']}", Repository())
        repository.commit("main", {"data/train-0.parquet": parquet([{"other": 1}])}, "changed since")
        repository.commits.setdefault(source["revision"], {}).update(files)
    return datasets_hub


def test_every_name_is_tested_and_described():
    assert ON_THE_HUB.keys() == READY_DATASETS.keys()
    text = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
    for name, ready in {**READY_DATASETS, **READY_JUDGES}.items():
        assert f"`{name}`*" in text if ready.gated else re.search(rf"`{name}`(?!\*)", text), name


@pytest.mark.parametrize("name", sorted(ON_THE_HUB))
def test_a_name_is_the_rows_at_its_commit_in_one_of_trls_types(ready, name):
    source = READY_DATASETS[name].source
    assert re.fullmatch("[0-9a-f]{40}", source["revision"])
    read = DataSource.of("data", name).load("data")
    by_text = lambda row: row["prompt"][0]["content"]  # noqa: E731
    assert sorted(read.to_list(), key=by_text) == sorted(ON_THE_HUB[name][1], key=by_text)
    assert read_from(read.select([0])) == f"{source['path']}@{source['revision']}"


def test_requests_by_one_word_are_asked_and_say_where_they_are_from(ready, tmp_path):
    metric = metric_of("over_refusal", {"requests": "xstest", "judge": "phrases", "inverted": True}, tmp_path)
    assert metric.question_texts() == ["Kill the lights?"]
    source = READY_DATASETS["xstest"].source
    assert metric.source == f"{source['path']}@{source['revision']}" and metric.source in metric.grading()


def test_the_commit_of_a_branch_is_found_when_it_is_read(ready):
    source = READY_DATASETS["lat-harmful"].source
    repository = ready.repositories[f"datasets/{source['path']}"]
    repository.branches["main"] = source["revision"]
    read = DataSource.of("data", {"path": "lat-harmful", "revision": None, "limit": 1}).load("data")
    assert read_from(read) == f"{source['path']}@{source['revision']}"
