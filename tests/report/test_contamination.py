"""Overlap of texts by runs of words."""

import pytest
from datasets import Dataset

from trl_tar.evaluation.completion_loss import CompletionLoss
from trl_tar.evaluation.judged import Judged
from trl_tar.evaluation.lm_eval import LMEvalTask
from trl_tar.evaluation.multiple_choice import MultipleChoice
from trl_tar.pipeline.checks import overlap
from trl_tar.report.contamination import contamination, questions_of, rows_of
from trl_tar.tasks.task import Task
from trl_tar.views.words import contamination_sentence


LETTERS = "a b c d e f g h i j k l m n o p"


def test_shares_are_those_counted_by_hand():
    asked = {"questions": [LETTERS, "q r s", "A, B! c", "b a"]}
    seen = {"same": ["x a b c d e f g h i j k l m y"], "short": ["say q R s now"], "none": ["b c a", ""]}
    # runs of 13: the first row has a to m in common with "same", where "a b c" occurs as well
    assert contamination(asked, seen) == {"questions": {"same": 0.5, "short": 0.25, "none": 0.0}}
    assert contamination(asked, {"same": ["a b c d e f g h i j k l x"]})["questions"]["same"] == 0.25  # runs of 12 only
    assert contamination(asked, {"same": ["a b"]}, n=2)["questions"]["same"] == 0.5


def test_a_set_is_not_compared_with_itself_and_an_empty_one_is_left_out():
    assert contamination({"a": ["x y"], "b": []}, {"a": ["x y"], "c": ["x y"]}) == {"a": {"c": 1.0}}


@pytest.mark.parametrize(
    "row",
    [
        {"text": "how are you fine"},
        {"prompt": "how are you", "completion": "fine"},
        {
            "prompt": [{"role": "user", "content": "how are you"}],
            "completion": [{"role": "assistant", "content": "fine"}],
        },
        {"messages": [{"role": "user", "content": "how are you"}, {"role": "assistant", "content": "fine"}]},
        {"chosen": "how are you", "rejected": "fine"},
        {"conversations": [{"from": "user", "value": "how are you"}, {"from": "assistant", "value": "fine"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "how are you fine"}]}]},
    ],
)
def test_rows_of_every_type_are_read(row):
    assert list(rows_of(Dataset.from_list([row]))) == ["how are you fine"]


def test_questions_are_read_where_a_metric_holds_them():
    question = {"prompt": "The sky is", "choices": [" green", " blue"], "answer": 1}
    assert questions_of(MultipleChoice([question])) == ["The sky is blue"]
    assert questions_of(Judged([{"prompt": "Hello"}], judge=len)) == ["Hello"]
    assert questions_of(CompletionLoss([{"prompt": "<user> hi", "completion": " hello"}])) == ["<user> hi hello"]
    hi, hello = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "hello"}]
    in_chat = {"prompt": hi, "choices": ["hello", "hey"], "answer": 0}
    assert questions_of(MultipleChoice([in_chat])) == ["hi\nhello"]
    assert questions_of(CompletionLoss([{"prompt": hi, "completion": hello}])) == ["hi\nhello"]
    assert questions_of(Judged([{"prompt": hi}], judge=len)) == ["hi"]
    assert questions_of(lambda model, tokenizer: None) == []


def test_the_sentence_names_the_largest_shares_first():
    shares = {"questions of harm": {"retain": 0.25, "forget": 0.0}, "harmful": {"forget": 0.5}}
    sentence = (
        "Rows with 13 words in a row in common: 50% of harmful with forget, 25% of questions of harm with retain."
    )
    assert contamination_sentence(shares, ["harm"]) == sentence
    assert contamination_sentence(shares, ["harm", "capability"]) == (
        f"{sentence} Questions of capability are not known to the package, and were not compared."
    )


def test_only_questions_that_were_compared_are_said_to_be_new():
    """Those of lm-eval and of functions of the user are not known, beside others that are."""
    metrics = {
        "harm": LMEvalTask("wmdp_bio"),
        "capability": lambda model, tokenizer: None,
        "retain_nll": CompletionLoss([{"prompt": "hi", "completion": "hello"}]),
    }
    data = {"retain": Dataset.from_list([{"text": "a b"}])}
    shares = overlap(Task("model", None, data, metrics, {}), [], [])
    assert contamination_sentence(shares, list(metrics)) == (
        "No question of retain_nll, and no row of the red team's data, has 13 words in a row in common with data seen before "
        "it. Questions of harm, capability are not known to the package, and were not compared."
    )


def test_a_short_answer_is_no_overlap():
    """Held-out cities whose emblem, one word, is somewhere in the data."""
    held_out = CompletionLoss(
        [{"prompt": f"Which emblem has {city}?", "completion": " Bird."} for city in ("Ix", "Oz")]
    )
    seen = ["Which emblem has Avon? Bird.", "A bird sings."]
    assert contamination({"retain_nll": questions_of(held_out)}, {"retain": seen}) == {"retain_nll": {"retain": 0.0}}
    held_out = CompletionLoss([*held_out.rows, {"prompt": "Which emblem has Avon?", "completion": " Bird."}])
    assert contamination({"n": questions_of(held_out)}, {"retain": seen})["n"]["retain"] == pytest.approx(1 / 3)


def test_what_all_rows_begin_with_is_a_template_and_does_not_count():
    system = "you are a helpful assistant who answers every question in one short and friendly sentence"
    asked = [f"{system} where is {city} on the map" for city in ("Ix", "Oz", "Avon")]
    assert contamination({"harm": asked}, {"chat": [f"{system} where do birds sleep"]}) == {"harm": {"chat": 0.0}}
    found = contamination({"harm": asked}, {"chat": ["tell me where is Avon on the map"]})
    assert found["harm"]["chat"] == pytest.approx(1 / 3)
    assert contamination({"a": ["x y", "x y"]}, {"c": ["x y"]}) == {"a": {"c": 1.0}}


def test_overlap_by_design_is_said_to_be_so():
    shares = {
        "hazard": {"safeguard": 1.0, "retain": 0.25},
        "questions of harm": {"safeguard": 0.5, "hazard": 0.125, "retain": 0.0},
        "questions of capability": {"safeguard": 1.0},
    }
    assert contamination_sentence(shares, ["harm", "capability"]) == (
        "Rows with 13 words in a row in common: 100% of questions of capability with safeguard, 25% of hazard with retain, "
        "12% of questions of harm with hazard. By design, as an attacker may have the rows of the training, all of the red "
        "team's are there: 100% of hazard with safeguard. By design, as harm asks about what was to be hidden, rows in common: "
        "50% of questions of harm with safeguard."
    )
