"""Attacks from outside the package: called as described, counted, measured, and bound to their source."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from support.attacks import METRICS, TOKENIZER, attacked, tiny_model
from support.repository import ROOT

from trl_tar import Adversary, Report
from trl_tar.adversaries.in_words import in_words
from trl_tar.fingerprints import file_sha256
from trl_tar.losses import language_modeling_loss, max_entropy_loss
from trl_tar.red_teaming import run_attack
from trl_tar.red_teaming.attack_rows import tokenised_datasets
from trl_tar.red_teaming.custom_attacks import check_custom, custom_sources


DESCEND = Adversary(
    "descend", "forget", custom="support.custom_attacks:descend", num_steps=10, batch_size=8, learning_rate=0.5
)


def run(adversary, raw, **settings):
    model = tiny_model()
    record = run_attack(model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.5}, max_length=32, **settings)
    return model, record


def test_its_steps_and_tokens_are_counted_and_its_way_is_recorded(raw):
    model, record = run(DESCEND, raw)
    rows = tokenised_datasets(tiny_model(), TOKENIZER, DESCEND, raw, 32)["forget"]["input_ids"][:8]
    step = 8 * model.num_parameters() * sum(map(len, rows))  # 2 without gradients, and 6 with them
    assert [(p["step"], p["flops"]) for p in record.trajectory] == [(n, n * step) for n in (0, 1, 2, 5, 10)]
    losses = [point["loss"] for point in record.trajectory[1:]]
    assert record.trajectory[0]["loss"] is None and losses == sorted(losses, reverse=True)
    assert all(p.grad is None for p in model.parameters())


def test_it_is_an_attack_on_what_another_left(raw):
    first = replace(DESCEND, name="first", num_steps=3)
    alone, _ = run(replace(DESCEND, num_steps=6), raw)
    after, record = run(replace(DESCEND, num_steps=3, after=first), raw)
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), after.parameters(), strict=True))
    assert [point["step"] for point in record.trajectory] == [0, 1, 2, 3] and record.trajectory[0]["flops"] > 0


def test_a_way_that_ends_early_is_measured_at_its_end(raw):
    _, record = run(replace(DESCEND, options={"extra_steps": -4}), raw)
    assert [point["step"] for point in record.trajectory] == [0, 1, 2, 5, 6]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"options": {"extra_steps": 1}}, "num_steps=10, and support.custom_attacks:descend took another step"),
        ({"custom": "support.custom_attacks:idle"}, "never called `evaluate`"),
    ],
)
def test_more_steps_than_it_may_take_or_none_are_no_attack(raw, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(replace(DESCEND, **changes), raw)


def test_a_loss_that_is_not_finite_ends_it(raw):
    _, record = run(replace(DESCEND, options={"loss_is": float("inf")}), raw)
    assert record.status == "diverged" and record.error == "loss inf at step 0"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"custom": "support.no_such:attack"}, "Give module:function, importable from here"),
        ({"custom": "support.custom_attacks:nothing"}, "Give module:function, importable from here"),
        ({"custom": "support.custom_attacks:length_of"}, "defined in 'trl_tar.data.tokenisation'. Name that module"),
        (
            {"options": {"speed": 2}},
            "Let it take model, tokenizer, data, seed, evaluate, budget and its options by name",
        ),
    ],
)
def test_what_cannot_be_called_is_refused_before_any_work(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_custom(replace(DESCEND, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"custom": "no function"}, "custom='no function'. Give module:function."),
        ({"num_steps": 0}, "num_steps=0. Give the steps that it may take at most."),
        ({"lora_r": 4}, "lora_r=4 would do nothing. Give it in options"),
        ({"optimizer": "sgd"}, "optimizer='sgd' would do nothing. Give it in options"),
        ({"options": {"list": [1]}}, "Give options as"),
        ({"custom": None, "options": {"a": 1}}, "without custom. Name the attack that takes them."),
    ],
)
def test_fields_that_contradict_a_custom_attack_are_refused(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        replace(DESCEND, **changes)


def test_it_survives_json_and_is_put_in_words():
    adversary = replace(DESCEND, options={"share": 0.5})
    again = Adversary(**json.loads(json.dumps(asdict(adversary))))
    assert again == adversary and hash(again) == hash(adversary)
    assert in_words(adversary).method == "custom attack support.custom_attacks:descend, with {'share': 0.5}"


def test_the_report_holds_the_hash_of_its_file(raw, tmp_path):
    adversary = replace(DESCEND, num_steps=1)
    report = attacked(raw, tmp_path, adversaries=[adversary], references={}, seeds=[0], metrics=METRICS)
    file = ROOT / "tests" / "support" / "custom_attacks.py"
    assert report.config["custom"] == {adversary.custom: file_sha256(file)} and report.attacks[0].finished
    report.save(tmp_path)
    assert Report.load(tmp_path).config["adversaries"][0]["custom"] == adversary.custom


def test_another_source_is_another_job(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_mine.py").write_text("def attack(model, tokenizer, data, seed, evaluate, budget): pass\n")
    adversary = replace(DESCEND, custom="of_mine:attack")
    before = custom_sources([replace(DESCEND, after=adversary)])
    (tmp_path / "of_mine.py").write_text("def attack(model, tokenizer, data, seed, evaluate, budget): return\n")
    after = custom_sources([replace(DESCEND, after=adversary)])
    assert before.keys() == after.keys() == {"of_mine:attack", DESCEND.custom}
    assert {name for name in before if before[name] != after[name]} == {"of_mine:attack"}


def test_the_adaptive_example_makes_answers_sure_before_it_learns_them(raw, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    names = {"custom": "adaptive_attack:sharpen_then_learn", "learning_rate": 1e-2, "num_steps": 20}
    start, found = measured(tiny_model()), {}
    for share in (1.0, 0.5):
        model, record = run(replace(DESCEND, **names, options={"share": share}), raw)
        assert record.status == "completed"
        found[share] = measured(model)
    assert (
        found[1.0]["entropy"] < start["entropy"] - 1
    )  # nats, on words that it was not trained on; seen were 6.4 and 4.4
    assert found[0.5]["loss"] < found[1.0]["loss"]


def measured(model) -> dict[str, float]:
    ids = TOKENIZER(["the a of b is c", "d has e called f"], return_tensors="pt", padding=True)["input_ids"]
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, use_cache=False).logits
    entropy, count = max_entropy_loss(logits, ids)
    return {"entropy": -(entropy / count).item(), "loss": (language_modeling_loss(logits, ids)[0] / count).item()}
