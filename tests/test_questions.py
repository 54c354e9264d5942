"""The side file: every answer, in stable bytes, refused where it is damaged."""

import gzip
import json

import pytest

from trl_tar.evaluation.scores import Scores
from trl_tar.questions import QUESTIONS_FILE, Questions, groups_of, rounded


SCORES = {"harm": Scores([1.0, 0.123456, float("nan")], ["a", "a", "b"]), "capability": Scores([0.5])}
QUESTIONS = Questions(groups_of(SCORES), {"model": rounded(SCORES)}, {"model": {"mix/0": rounded(SCORES)}})


def test_scores_are_rounded_and_what_is_no_number_is_none():
    assert rounded(SCORES) == {"harm": [1.0, 0.1235, None], "capability": [0.5]}
    assert groups_of(SCORES) == {"harm": ["a", "a", "b"], "capability": ["0"]}


def test_answers_survive_their_file(tmp_path):
    file = QUESTIONS.save(tmp_path)
    assert Questions.load(tmp_path) == Questions.load(file) == QUESTIONS
    assert [path.name for path in tmp_path.iterdir()] == [QUESTIONS_FILE]


def test_the_same_answers_are_the_same_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert QUESTIONS.save(tmp_path / "a").read_bytes() == QUESTIONS.save(tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged"),
        (gzip.compress(b"[1]"), "is damaged"),
        (gzip.compress(b"{}"), "is damaged"),
        (gzip.compress(json.dumps({"version": 1, "other": 1}).encode()), "is damaged"),
        (gzip.compress(json.dumps({"version": 9}).encode()), "has version 9"),
        (gzip.compress(b"{}" * 100)[:-5], "is damaged"),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content, message):
    (tmp_path / QUESTIONS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Questions.load(tmp_path)


def test_a_folder_without_answers_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no answers"):
        Questions.load(tmp_path)
