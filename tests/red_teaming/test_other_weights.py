"""Weights held in another form: nothing changes before the first step, and the model is an ordinary one after the last."""

import pytest
import torch
from support import tiny
from support.attacks import TOKENIZER, tiny_model

from trl_tar import Adversary
from trl_tar.adversaries.in_words import in_words
from trl_tar.losses import language_modeling_loss
from trl_tar.red_teaming import run_attack
from trl_tar.red_teaming.other_weights import as_products


IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])  # `Linear`, and `Conv1D` with tied weights
@pytest.mark.parametrize("count", [2, 4])
def test_a_product_computes_what_the_matrix_did_and_is_multiplied_out(make, count):
    model, before = make(), tiny.weights(make())
    expected = model(input_ids=IDS).logits
    with as_products(model, count):
        held = dict(model.named_parameters())
        assert sum(".parametrizations.weight.original" in name for name in held) % count == 0 and len(held) > len(
            before
        )
        torch.testing.assert_close(model(input_ids=IDS).logits, expected, rtol=1e-4, atol=1e-5)
    after = tiny.weights(model)
    assert after.keys() == before.keys() and all(p.requires_grad for p in model.parameters())
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, rtol=1e-4, atol=1e-5)


def loss_of(model) -> float:
    ids = TOKENIZER(["the a of b is c", "d has e called f"], return_tensors="pt", padding=True)["input_ids"]
    total, count = language_modeling_loss(model(input_ids=ids, use_cache=False).logits.float(), ids)
    return (total / count).item()


@pytest.mark.parametrize("form", [{"factors": 2}, {"pure_bf16": True}, {"optimizer": "muon"}], ids=str)
def test_an_attack_learns_and_its_last_point_is_the_model_that_it_leaves(form, raw):
    adversary = Adversary("a", "forget", num_steps=10, batch_size=8, learning_rate=1e-2, **form)
    model, names = tiny_model(), set(dict(tiny_model().named_parameters()))
    record = run_attack(model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": loss_of(m)}, max_length=32)
    assert record.trajectory[0]["harm"] == pytest.approx(loss_of(tiny_model()), rel=1e-2)  # half of bf16's digits
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), tiny_model().buffers(), strict=True))
    assert record.trajectory[-1]["loss"] < 0.9 * record.trajectory[1]["loss"]
    assert set(dict(model.named_parameters())) == names and {p.dtype for p in model.parameters()} == {torch.float32}
    assert record.after == {"harm": pytest.approx(loss_of(model), rel=1e-2)}


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"factors": 1}, "factors=1. Use at least 2."),
        ({"factors": 2, "lora_r": 4}, "factors with lora_r or num_virtual_tokens"),
        ({"factors": 2, "pure_bf16": True}, "factors with pure_bf16"),
        ({"pure_bf16": True, "num_steps": 0}, "num_steps=0 with factors or pure_bf16"),
    ],
)
def test_forms_that_contradict_others_are_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        Adversary("a", "forget", **fields)


def test_forms_are_put_in_words():
    assert in_words(Adversary("a", "forget", factors=2)).method == "SFT, layers as products of 2 matrices"
    assert in_words(Adversary("a", "forget", pure_bf16=True)).method == "SFT, pure bf16"
