"""The side file: every answer, in stable bytes, refused where it is damaged."""

import gzip
import json
from dataclasses import replace

import pytest
from support.reports import report

from trl_tar.evaluation.scores import Scores
from trl_tar.files import write_json
from trl_tar.report.answers import QUESTIONS_FILE, Questions, groups_of, rounded
from trl_tar.report.report import Report


SCORES = {
    "harm": Scores([1.0, 0.123456, float("nan")], ["a", "a", "b"]),
    "capability": Scores([0.5]),
    "retain_nll": Scores([float("inf"), 2.00001]),
}
QUESTIONS = Questions(groups_of(SCORES), {"model": rounded(SCORES)}, {"model": {"mix/0": rounded(SCORES)}})


def test_scores_are_rounded_and_what_is_no_number_is_none():
    assert rounded(SCORES) == {"harm": [1.0, 0.1235, None], "capability": [0.5], "retain_nll": [None, 2.0]}
    assert groups_of(SCORES) == {"harm": ["a", "a", "b"], "capability": ["0"], "retain_nll": ["0", "1"]}


def test_one_infinite_score_does_not_end_a_run(tmp_path):
    write_json(tmp_path / "job.json", {"questions": rounded(SCORES)})  # refuses NaN and infinity


def test_answers_survive_their_file(tmp_path):
    file = QUESTIONS.save(tmp_path)
    assert Questions.load(tmp_path) == Questions.load(file) == QUESTIONS
    assert [path.name for path in tmp_path.iterdir()] == [QUESTIONS_FILE]


def test_each_report_of_a_folder_has_answers_of_its_own(tmp_path):
    for name, questions in [("report", QUESTIONS), ("hardened", Questions())]:
        replace(report(), questions=questions).save(tmp_path / f"{name}.json")
    assert Questions.load(tmp_path) == QUESTIONS
    assert Questions.load(tmp_path / f"hardened.{QUESTIONS_FILE}") == Questions()
    assert Report.load(tmp_path / "hardened.json") == report()


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
        (gzip.compress(json.dumps({"version": 1, "groups": 5}).encode()), "is damaged .'groups'"),
        (gzip.compress(json.dumps({"version": 1, "before": {"model": [1.0]}}).encode()), "is damaged .'before'"),
    ],
    # not the bytes, which tell the second of their making: each worker of pytest-xdist has its own
    ids=["empty", "list", "nothing", "unknown", "later", "cut-off", "groups", "before"],
)
def test_a_damaged_file_is_one_sentence(tmp_path, content, message):
    (tmp_path / QUESTIONS_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        Questions.load(tmp_path)


def test_no_changed_byte_is_more_than_one_sentence(tmp_path):
    file = QUESTIONS.save(tmp_path)
    whole = file.read_bytes()
    for i in range(len(whole)):
        file.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        try:
            # a byte of the header may say nothing, such as the system's name
            assert Questions.load(file) == QUESTIONS
        except ValueError as error:
            assert "is damaged" in str(error)


def test_a_folder_without_answers_is_named(tmp_path):
    with pytest.raises(ValueError, match="holds no answers"):
        Questions.load(tmp_path)
