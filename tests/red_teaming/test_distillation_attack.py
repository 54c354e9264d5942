"""Distillation from the public base as an attack: its steps, its data and its base."""

import pytest
import torch
from support.attacks import TOKENIZER, tiny_model

from trl_tar import Adversary
from trl_tar.adversaries.data_order import draw_batches
from trl_tar.adversaries.in_words import in_words
from trl_tar.red_teaming import run_attack
from trl_tar.red_teaming.attack_rows import tokenised_datasets


SETTINGS = {"objective": "distillation", "num_steps": 3, "batch_size": 4, "optimizer": "sgd", "learning_rate": 0.1}
MIXED = Adversary("distil", mixture={"retain": 0.5, "forget": 0.5}, weight_decay=0.0, **SETTINGS)


def attacked(model, adversary, raw):
    base = tiny_model(seed=1).to(next(model.parameters()).dtype)
    record = run_attack(model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.0}, evaluation_steps=[3], base=base)
    assert record.status == "completed", record.error
    return record


@pytest.mark.parametrize("micro_batch_size", [None, 1])
def test_steps_are_those_of_a_slow_loop(raw, micro_batch_size):
    model, expected, base = tiny_model().double(), tiny_model().double(), tiny_model(seed=1).double()
    adversary = Adversary(**{**vars(MIXED), "micro_batch_size": micro_batch_size})
    record = attacked(model, adversary, raw)
    rows = tokenised_datasets(tiny_model(), TOKENIZER, adversary, raw, 256)
    batches = list(draw_batches(adversary, {name: len(each) for name, each in rows.items()}, 0))
    losses = []
    for batch in batches:
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        for name, i in batch:
            ids, labels = torch.tensor([rows[name][i]["input_ids"]]), rows[name][i]["labels"]
            p, q = (m(input_ids=ids).logits[0].softmax(-1) for m in (base, expected))
            for t, label in enumerate(labels[1:]):
                if label != -100:
                    total = total + (p[t].detach() * (p[t].detach() / q[t]).log()).sum()
                    tokens += 1
        expected.zero_grad()
        (total / tokens).backward()
        losses.append((total / tokens).item())
        with torch.no_grad():
            for weight in expected.parameters():
                weight -= 0.1 * weight.grad
    start = dict(tiny_model().double().named_parameters())
    moved = {name: weight - start[name] for name, weight in expected.named_parameters()}
    size = torch.sqrt(sum(change.pow(2).sum() for change in moved.values()))
    error = torch.sqrt(sum((p - start[n] - moved[n]).pow(2).sum() for n, p in model.named_parameters()))
    assert error < 1e-10 * size
    assert record.trajectory[-1]["loss"] == pytest.approx(sum(losses) / 3, abs=1e-6)


@pytest.mark.parametrize("adapter", [{"lora_r": 4}, {"num_virtual_tokens": 3}], ids=lambda fields: next(iter(fields)))
def test_an_adapter_and_a_soft_prompt_are_distilled_too(raw, adapter):
    attacked(tiny_model(), Adversary("distil", "retain", **adapter, **SETTINGS), raw)


def test_it_reads_the_base_and_rows_as_for_sft():
    assert MIXED.needs_base and MIXED.reads == {"retain": "sft", "forget": "sft"}
    later = Adversary("mix", "retain", after=MIXED)
    assert later.needs_base and later.reads == MIXED.reads
    assert not Adversary("sft", "retain").needs_base
    assert "distillation from the base" in in_words(MIXED).method
