"""The earlier defences: each loss by hand, and what holds for all of them."""

import math
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from support import tiny

import trl_tar


NAMES = ("MaxEntropy", "MinPosterior", "GradDiff", "SimNPO")
ROWS = tiny.tokenised()


def trainer(tmp_path, name, model=None, **settings):
    return getattr(trl_tar, f"{name}Trainer")(
        tiny.gpt2() if model is None else model,
        getattr(trl_tar, f"{name}Config")(str(tmp_path), **{**tiny.TRAINER, "max_steps": 1, **settings}),
        train_dataset=Dataset.from_list(ROWS["retain"]),
        eval_dataset=Dataset.from_list(ROWS["retain"][:5]),
        forget_dataset=Dataset.from_list(ROWS["forget"]),
        processing_class=tiny.tokenizer(),
    )


def saying(probabilities):
    """A model that gives these distributions at the positions of one row, shape (T, V), and the last anything."""
    logits = torch.tensor([[*probabilities, probabilities[-1]]], dtype=torch.float64).log() + 3.0
    return lambda **_: SimpleNamespace(logits=logits)


def two(p):
    return [p, 1 - p]


@pytest.mark.parametrize(
    ("name", "settings", "probabilities", "expected"),
    [
        ("MaxEntropy", {}, [[0.5, 0.25, 0.25]], -1.0397208),  # ½ log ½ + 2 · ¼ log ¼
        ("MinPosterior", {}, [two(0.9), two(math.exp(-20))], 1.1512925),  # (log 10 + 0) / 2
        ("MinPosterior", {}, [two(math.exp(-6))], 0.0024818),  # −log(1 − e^−6)
        ("MinPosterior", {"threshold": -5}, [two(math.exp(-6))], 0.0),
        ("GradDiff", {}, [two(0.5), two(0.125)], -2 * math.log(2)),  # (log ½ + log ⅛) / 2
        ("SimNPO", {}, [two(math.exp(-2))] * 4, 0.0053723),  # 0.8 log(1 + e^−5)
        ("SimNPO", {"gamma": 0.5}, [two(math.exp(-1)), two(math.exp(-3))] * 2, 0.0088382),  # 0.8 log(1 + e^−4.5)
    ],
)
def test_loss_by_hand(tmp_path, name, settings, probabilities, expected):
    tested = trainer(tmp_path, name, **settings)
    ids = torch.zeros(1, len(probabilities) + 1, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    mean = tested.forget_loss(saying(probabilities), batch) / tested.forget_count(batch)
    assert mean.item() == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_neither_padding_nor_accumulation_changes_a_step(tmp_path, name):
    """Micro-batches of one row have no padding; the rows differ in length."""
    assert len({len(row["input_ids"]) for row in ROWS["forget"]}) > 1
    found = []
    for size in (4, 1):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 4 // size}
        tested = trainer(tmp_path, name, **settings)
        tested.train()
        found.append((tiny.weights(tested.model), tested.state.log_history[0]))
    (whole, log), (split, split_log) = found
    assert tiny.displacement_error(split, whole, tiny.weights(tiny.gpt2())) < 1e-10
    assert split_log["forget_loss"] == pytest.approx(log["forget_loss"], rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_lowers_the_forget_loss_and_is_not_that_of_the_retain_term(tmp_path, name):
    settings = {"forget_batch_size": len(ROWS["forget"]), "learning_rate": 1e-3, "retain_weight": 0.0}
    tested = trainer(tmp_path, name, max_steps=2, **settings)
    tested.train()
    first, second = (log["forget_loss"] for log in tested.state.log_history[:2])
    assert second < first  # with λ_retain = 0, all of the step is the forget loss's


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_is_the_retain_term(tmp_path, name):
    weight, losses = 2.0, []
    tested = trainer(tmp_path, name, retain_weight=weight, per_device_eval_batch_size=2)
    for row in ROWS["retain"][:5]:
        log_p = tiny.gpt2()(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        losses += [-log_p[t - 1, label] for t, label in enumerate(row["labels"]) if t > 0 and label != -100]
    assert tested.evaluate()["eval_loss"] == pytest.approx(weight * torch.stack(losses).mean().item(), rel=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_a_llama_makes_a_step(tmp_path, name):
    tested = trainer(tmp_path, name, tiny.llama())
    start = tiny.weights(tested.model)
    tested.train()
    assert all(p.isfinite().all() for p in tested.model.parameters())
    assert any(not torch.equal(p, start[key]) for key, p in tested.model.named_parameters())


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("MinPosterior", {"threshold": 0.5}, "threshold=0.5. Use a finite log-probability below 0"),
        ("SimNPO", {"beta": 0}, "beta=0.0. Use a finite number above 0"),
        ("SimNPO", {"gamma": -1}, "gamma=-1.0. Use a finite number of at least 0"),
    ],
)
def test_unusable_settings_get_one_sentence(tmp_path, name, settings, message):
    with pytest.raises(ValueError) as error:
        trainer(tmp_path, name, **settings)
    assert message in str(error.value)
