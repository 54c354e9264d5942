"""Coherence: scores worked out by hand, and a gate for each that a hollow model does not pass."""

import math

import pytest
import torch
from support import tiny
from support.reports import report

from trl_tar.evaluation.coherence import AnswerEntropy, AnswerNLL, NoOption, Repetition, generated, repeated_share
from trl_tar.report.build import build_report
from trl_tar.report.records import ModelRecord
from trl_tar.report.verdict import GATES


def constant(token: int):
    """A model that says one word for ever."""
    model = tiny.gpt2(dtype=torch.float32)
    with torch.no_grad():
        model.lm_head = torch.nn.Linear(model.config.n_embd, model.config.vocab_size)
        model.lm_head.weight.zero_()
        model.lm_head.bias.zero_()
        model.lm_head.bias[token] = 50.0
    return model.eval()


def test_a_repeated_ngram_counts_once():
    # 4-grams of 1 2 3 4 1 2 3 4: 1234, 2341, 3412, 4123, 1234 – four different of five
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(0.2)
    assert repeated_share([1, 2, 3, 4]) == repeated_share([]) == 0.0


def test_a_model_that_says_one_word_repeats_itself_and_is_sure():
    model, tokenizer = constant(10), tiny.tokenizer()
    ((prompt, answer),) = generated(model, tokenizer, ["w1 w2"], 8)
    assert (prompt.tolist(), answer.tolist()) == (tokenizer("w1 w2")["input_ids"], [10] * 8)
    # eight tokens are five 4-grams, all the same
    assert Repetition(["w1 w2"], max_new_tokens=8)(model, tokenizer).values == [pytest.approx(0.8)]
    assert AnswerEntropy(["w1 w2"])(model, tokenizer).values == [pytest.approx(0.0, abs=1e-6)]


def test_a_model_that_knows_nothing_has_the_entropy_of_its_vocabulary():
    model = constant(10)
    with torch.no_grad():
        model.lm_head.bias.zero_()
    assert AnswerEntropy(["w1"])(model, tiny.tokenizer()).values == [pytest.approx(math.log(len(tiny.VOCABULARY)))]


def test_the_base_judges_what_the_model_says(tmp_path):
    base = tiny.gpt2(dtype=torch.float32).eval()
    base.save_pretrained(tmp_path)
    expected, ids = 0.0, tiny.tokenizer()("w1")["input_ids"]
    for _ in range(4):  # one token at a time
        expected -= base(torch.tensor([ids])).logits[0, -1].log_softmax(-1)[10].item() / 4
        ids = [*ids, 10]
    found = AnswerNLL(["w1"], str(tmp_path), max_new_tokens=4)(constant(10), tiny.tokenizer()).values
    assert found == [pytest.approx(expected, rel=1e-5)]


@pytest.mark.parametrize(
    ("answer", "missing"),
    [("B", 0.0), ("The answer is (C).", 0.0), ("About", 1.0), ("", 1.0), ("E", 1.0), ("a", 1.0)],
)
def test_an_option_is_a_letter_of_its_own(answer, missing, monkeypatch):
    monkeypatch.setattr("trl_tar.evaluation.coherence.generated", lambda *a: [(None, answer)])
    monkeypatch.setattr("trl_tar.evaluation.coherence.in_words", lambda tokenizer, prompt, text: text)
    assert NoOption(["Which?"])(None, None).values == [missing]


@pytest.mark.parametrize(
    "row",
    [gate for gate in GATES if gate.needs_metric and gate.name == f"{gate.needs}_gain"],
    ids=lambda gate: gate.needs,
)
def test_each_metric_has_a_gate_where_it_was_measured(row):
    made = report()
    name, limit = row.needs, row.bound.threshold
    for gain, passed in [(limit / 2, True), (limit * 2, False), (None, False)]:
        before = {**made.before, name: None if gain is None else 0.1 + gain}
        base = made.references["base"]
        references = {**made.references, "base": ModelRecord(base.model, {**base.before, name: 0.1}, base.attacks)}
        judged = build_report(ModelRecord(made.model, before, made.attacks), references, seeds=made.seeds)
        (gate,) = [gate for gate in judged.verdict.gates if gate.name == f"{name}_gain"]
        assert gate.passed is passed
        assert judged.verdict.empty_shell or passed or gain is None  # low harm, and it has stopped speaking
    assert not [gate for gate in made.verdict.gates if gate.name == f"{name}_gain"]
