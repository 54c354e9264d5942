"""Choice by likelihood on any causal language model, against likelihoods worked out one token at a time."""

import json

import pytest
import tiny
import torch

from trl_tar.evaluation.multiple_choice import MultipleChoice, log_likelihoods


QUESTIONS = [
    {"prompt": "w1 w2", "choices": [" w3", " w4 w5", " w6"], "answer": 1, "group": "a"},
    {"prompt": "w7", "choices": [" w8 w9 w10", " w11"], "answer": 0, "group": "a"},
    {"prompt": "w1 w2 w3 w4", "choices": [" w5", " w6"], "answer": 1},
]


def one_by_one(model, prompt: str, continuation: str) -> float:
    """Σ log p(token | all before it), each from a forward pass of its own."""
    tokenizer = tiny.tokenizer()
    ids = tokenizer(prompt)["input_ids"]
    total = 0.0
    for token in tokenizer(continuation)["input_ids"]:
        total += model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[token].item()
        ids = [*ids, token]
    return total


def test_likelihoods_of_rows_of_unequal_length_are_those_of_each_alone():
    model = tiny.gpt2()
    pairs = [(q["prompt"], choice) for q in QUESTIONS for choice in q["choices"]]
    expected = torch.tensor([one_by_one(model, *pair) for pair in pairs])
    torch.testing.assert_close(log_likelihoods(model, tiny.tokenizer(), pairs).float(), expected)


def test_a_prompt_is_read_once_for_its_continuations_of_one_token():
    model, read = tiny.gpt2(), []
    model.register_forward_pre_hook(lambda m, a, k: read.append(tuple(k["input_ids"].shape)), with_kwargs=True)
    log_likelihoods(model, tiny.tokenizer(), [("w1 w2", choice) for choice in (" w3", " w4", " w5 w6", " w7")])
    assert read == [(2, 3)]  # the prompt, and the prompt with w5


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_answer_must_be_the_likeliest(batch_size):
    model = tiny.gpt2()
    scores = MultipleChoice(QUESTIONS, batch_size)(model, tiny.tokenizer())
    expected = []
    for question in QUESTIONS:
        likelihoods = [one_by_one(model, question["prompt"], choice) for choice in question["choices"]]
        expected.append(float(max(likelihoods) == likelihoods[question["answer"]]))
    assert scores.values == expected
    assert scores.groups == ["a", "a", "2"]


def test_a_tie_is_wrong_and_a_broken_model_has_no_answer():
    model = tiny.gpt2()
    tie = MultipleChoice([{"prompt": "w1", "choices": [" w2", " w2"], "answer": 0}])
    assert tie(model, tiny.tokenizer()).values == [0.0]
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    assert torch.tensor(tie(model, tiny.tokenizer()).values).isnan().all()


def test_other_questions_have_another_representation():
    assert repr(MultipleChoice(QUESTIONS)) == repr(MultipleChoice([dict(q) for q in QUESTIONS]))
    assert repr(MultipleChoice(QUESTIONS)) != repr(MultipleChoice(QUESTIONS[:2]))


def test_a_file_has_one_question_a_line(tmp_path):
    file = tmp_path / "questions.jsonl"
    file.write_text("\n".join(map(json.dumps, QUESTIONS)) + "\n")
    assert repr(MultipleChoice.from_file(file)) == repr(MultipleChoice(QUESTIONS))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has 0 questions"),
        ("not json", "cannot be read"),
        ('{"prompt": "a", "choices": ["b", "c"]}', "Question 0 has no 'answer'"),
        ('{"prompt": "a", "choices": ["b"], "answer": 0}', "two or more"),
        ('{"prompt": "a", "choices": ["b", "c"], "answer": 2}', "answer=2"),
        ("[1]", "Question 0 has no 'prompt'"),
    ],
)
def test_a_file_that_is_no_questions_is_refused(tmp_path, text, message):
    file = tmp_path / "questions.jsonl"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        MultipleChoice.from_file(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.jsonl.*cannot be read"):
        MultipleChoice.from_file(tmp_path / "nowhere.jsonl")
