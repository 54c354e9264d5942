"""Metrics of a YAML file, and how they ask."""

import json
from pathlib import Path

import pytest
import yaml

from trl_tar.evaluation.completion_loss import CompletionLoss
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.tasks.from_yaml import metric_of, read_description


QUESTION = {"prompt": "w1", "choices": [" w2", " w3"], "answer": 0}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "q.jsonl").write_text(json.dumps(QUESTION))
    (tmp_path / "c.jsonl").write_text(json.dumps({"prompt": "w1", "completion": " w2"}))
    return tmp_path


def test_a_metric_asks_in_chat_where_it_or_its_file_says_so(folder):
    assert metric_of("harm", "q.jsonl", folder) == MultipleChoice([QUESTION])
    assert metric_of("harm", "q.jsonl", folder, chat=True) == MultipleChoice([QUESTION], chat=True)
    assert metric_of("harm", {"questions": "q.jsonl", "chat": True}, folder) == MultipleChoice([QUESTION], chat=True)
    assert metric_of("harm", {"questions": "q.jsonl", "chat": False}, folder, chat=True).chat is False
    assert metric_of("nll", {"completions": "c.jsonl"}, folder, chat=True).chat is True
    assert isinstance(metric_of("nll", {"completions": "c.jsonl"}, folder), CompletionLoss)
    with pytest.raises(ValueError, match="Metric 'harm' has chat='yes'"):
        metric_of("harm", {"questions": "q.jsonl", "chat": "yes"}, folder)
    judged = metric_of("asr", {"requests": "q.jsonl", "judge": "phrases"}, folder, chat=True)  # always asks in chat
    assert judged.wording() == "chat template"


def test_the_file_takes_no_other_chat_than_true_and_false(folder):
    content = {"datasets": {"h": "h.jsonl"}, "metrics": {"harm": "q.jsonl"}, "chat": "yes"}
    (folder / "d.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(ValueError, match="has chat='yes'. Give true or false."):
        read_description(folder / "d.yaml")


def test_files_are_looked_for_in_the_folder_that_the_file_names(folder):
    content = {"datasets": {"h": "h.jsonl"}, "metrics": {"harm": "q.jsonl"}}
    assert read_description(written(folder / "d.yaml", content))["folder"] == folder
    (folder / "run").mkdir()
    file = written(folder / "run" / "d.yaml", {**content, "folder": ".."})
    assert read_description(file)["folder"].samefile(folder)
    with pytest.raises(ValueError, match="has folder='../nowhere', which leads to none"):
        read_description(written(file, {**content, "folder": "../nowhere"}))


def written(file, content):
    file.write_text(yaml.safe_dump(content))
    return file


def test_half_of_a_character_in_a_file_is_named_by_its_question(folder):
    (folder / "q.jsonl").write_text('{"prompt": "w1 \\ud83d", "choices": [" w3", " w4"], "answer": 0}\n')
    with pytest.raises(ValueError, match="Question 0 has half of a character in 'w1"):
        metric_of("harm", "q.jsonl", folder)
