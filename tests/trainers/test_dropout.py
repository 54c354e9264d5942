"""Safeguards are trained without dropout, whatever the configuration of the model says, and saved with that configuration."""

import torch
from peft import LoraConfig
from support import tiny
from transformers import GPT2Config, GPT2LMHeadModel

from trl_tar import Adversary


def noisy() -> GPT2LMHeadModel:
    shares = {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attn_pdrop": 0.5}
    config = GPT2Config(**{**tiny.gpt2().config.to_dict(), **shares}, attn_implementation="eager")
    return tiny.seeded(GPT2LMHeadModel, config, 0).to(torch.float64)


def test_the_anchor_is_zero_at_its_reference_and_dropout_changes_no_step(make_trainer, tmp_path):
    trainers = [make_trainer(model, max_steps=2) for model in (tiny.gpt2(), noisy())]
    for trainer in trainers:
        trainer.train()
    for p, q in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        assert torch.equal(p, q)
    assert trainers[1].state.log_history[0]["retain_loss/representation"] == 0.0
    trainers[1].save_model(str(tmp_path))
    assert GPT2Config.from_pretrained(tmp_path).resid_pdrop == 0.5


def test_an_adapters_dropout_is_off(make_trainer):
    trainer = make_trainer(tiny.gpt2(), peft_config=LoraConfig(task_type="CAUSAL_LM", r=2, lora_dropout=0.9))
    assert {m.p for m in trainer.model.modules() if isinstance(m, torch.nn.Dropout)} == {0.0}


def test_an_attackers_dropout_is_off_while_it_is_judged(make_trainer, monkeypatch):
    adversary = Adversary("lora", "forget", lora_r=2, lora_dropout=0.5, **tiny.ATTACK)
    trainer = make_trainer(tiny.gpt2(), adversaries=[adversary], max_steps=1)
    judge, found = trainer._tamper_resistance_loss, []

    def seen(model, batch):
        found.append([m.training for m in model.modules() if isinstance(m, torch.nn.Dropout) and m.p == 0.5])
        return judge(model, batch)

    monkeypatch.setattr(trainer, "_tamper_resistance_loss", seen)
    trainer.train()
    assert len(found) == 2 and all(found) and not any(map(any, found))
