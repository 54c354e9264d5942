"""One attack by TRL's trainers: the same as the one simulated in training, and honest about what it measures."""

import copy
import json
import random
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from support.attacks import ATTACKS, TOKENIZER, tiny_model
from transformers import LlamaForCausalLM
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_tar import Adversary
from trl_tar.adversaries.data_order import draw_batches
from trl_tar.fingerprints import weights_sha256
from trl_tar.losses import dpo_loss, language_modeling_loss, sequence_log_probs
from trl_tar.red_teaming import run_attack
from trl_tar.red_teaming.attack import default_evaluation_steps
from trl_tar.red_teaming.attack_rows import attack_rows, tokenised_datasets
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.batches import PreferenceCollator
from trl_tar.simulation.restored import restored


def simulated(model, adversary: Adversary, raw, seed: int) -> dict[str, torch.Tensor]:
    """Weights after the attack as `TARTrainer` runs it, an adapter merged."""
    rows = {n: d.to_list() for n, d in tokenised_datasets(model, TOKENIZER, adversary, raw, 32).items()}
    pad = TOKENIZER.pad_token_id
    collate = DataCollatorForLanguageModeling(pad) if adversary.objective == "sft" else PreferenceCollator(pad, 32)
    drawn = draw_batches(adversary, {name: len(data) for name, data in rows.items()}, seed)
    batches = [[collate([rows[name][i] for name, i in batch])] for batch in drawn]

    def logits(model, batch):
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits

    def loss(model, batch):
        if adversary.objective == "sft":
            return language_modeling_loss(logits(model, batch), batch["labels"])
        return dpo_loss(sequence_log_probs(logits(model, batch), batch["labels"]), batch["reference"], adversary.beta)

    for (batch,) in batches if adversary.objective == "dpo" else []:
        with torch.no_grad():
            batch["reference"] = sequence_log_probs(logits(model.eval(), batch), batch["labels"])
    with restored(model, adversary, seed) as attacked:
        for _ in attack_steps(attacked, adversary, batches, loss, interval=adversary.num_steps):
            merged = copy.deepcopy(attacked.model)  # an attack with an adapter puts no weight back
            if adversary.lora_r is not None:
                merged.merge_adapter()
            return {
                name.replace("base_model.model.", "").replace(".base_layer", ""): p.detach()
                for name, p in merged.named_parameters()
                if "lora_" not in name
            }


def displacement_error(model, start, expected) -> float:
    """‖attacked − expected‖ / ‖expected − start‖ over all parameters."""
    attacked = dict(model.named_parameters())
    error = sum((attacked[n].double() - expected[n].double()).square().sum() for n in expected)
    moved = sum((expected[n].double() - start[n].double()).square().sum() for n in expected)
    return (error / moved).sqrt().item()


@pytest.mark.parametrize("adversary", ATTACKS, ids=lambda a: a.name)
def test_attack_by_trl_equals_simulated_attack(adversary, raw):
    model = tiny_model()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    expected = simulated(model, adversary, raw, seed=3)
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())
    record = run_attack(model, TOKENIZER, adversary, raw, 3, lambda model: {}, max_length=32)
    assert record.status == "completed"
    assert displacement_error(model, start, expected) < 1e-5


def forget_loss(model) -> float:
    """Of the plain forward pass, in nats."""
    batch = TOKENIZER(["the a of b is c", "d has e called f"], return_tensors="pt", padding=True)
    ids = batch["input_ids"].to(model.device)
    with torch.no_grad():
        return language_modeling_loss(model(input_ids=ids, use_cache=False).logits, ids)[0].item()


def test_evaluation_steps_are_dense_at_first_and_then_every_fifty():
    assert default_evaluation_steps(120) == [0, 1, 2, 5, 10, 20, 50, 100, 120]
    assert default_evaluation_steps(5) == [0, 1, 2, 5]
    assert default_evaluation_steps(0) == [0]


def test_rows_of_a_mixture_are_in_the_order_of_draw_batches(raw):
    adversary = ATTACKS[4]
    tokenised = tokenised_datasets(tiny_model(), TOKENIZER, adversary, raw, 32)
    rows = attack_rows(adversary, tokenised, seed=1)
    expected = [
        tokenised[name][i]["input_ids"]
        for batch in draw_batches(adversary, {"forget": 96, "retain": 96}, 1)
        for name, i in batch
    ]
    assert rows["input_ids"] == expected


@pytest.mark.parametrize("adversary", [ATTACKS[0], ATTACKS[3], ATTACKS[6]], ids=lambda a: a.name)
def test_points_are_those_of_the_attacked_weights(adversary, raw, tmp_path):
    """The last evaluation, the model in memory and its reloaded save agree: no forward pass of the trainer is left."""
    model = tiny_model()
    record = run_attack(model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": forget_loss(m)}, max_length=32)
    assert [point["step"] for point in record.trajectory] == [0, 1, 2, 5, 10]
    assert record.trajectory[0]["harm"] == pytest.approx(forget_loss(tiny_model()))
    assert record.after == {"harm": pytest.approx(forget_loss(model), abs=1e-4)}
    assert abs(record.after["harm"] - record.trajectory[0]["harm"]) > 0.1
    model.save_pretrained(tmp_path)
    assert forget_loss(LlamaForCausalLM.from_pretrained(tmp_path)) == forget_loss(model)
    assert "forward" not in model.__dict__


def test_flops_are_six_times_parameters_times_tokens(raw):
    model = tiny_model()
    record = run_attack(model, TOKENIZER, ATTACKS[0], raw, 0, lambda m: {}, max_length=32)
    tokenised = tokenised_datasets(tiny_model(), TOKENIZER, ATTACKS[0], raw, 32)
    tokens = [len(row) for row in attack_rows(ATTACKS[0], tokenised, 0)["input_ids"]]
    parameters = sum(p.numel() for p in tiny_model().parameters())
    assert [p["flops"] for p in record.trajectory] == [6 * parameters * sum(tokens[: 8 * s]) for s in (0, 1, 2, 5, 10)]


def test_evaluation_changes_neither_the_attack_nor_random_numbers(raw):
    def disturbing(model):
        assert not model.training
        random.random(), np.random.rand(), torch.rand(3)
        return {}

    adversary = replace(ATTACKS[6], lora_r=4, lora_dropout=0.3)  # Schedule-Free, with dropout
    states = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    quiet, disturbed = tiny_model(), tiny_model()
    torch.set_rng_state(states[2])
    run_attack(quiet, TOKENIZER, adversary, raw, 0, lambda m: {}, evaluation_steps=[], max_length=32)
    run_attack(disturbed, TOKENIZER, adversary, raw, 0, disturbing, evaluation_steps=range(11), max_length=32)
    for a, b in zip(quiet.parameters(), disturbed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_attack_in_bf16_is_close_to_the_one_in_float32(raw):
    def attacked_weights(bf16: bool):
        model = tiny_model()
        record = run_attack(model, TOKENIZER, ATTACKS[7], raw, 0, lambda m: {"harm": 0.5}, max_length=32, bf16=bf16)
        assert record.status == "completed" and {p.dtype for p in model.parameters()} == {torch.float32}
        return model

    start = {n: p.detach().clone() for n, p in tiny_model().named_parameters()}
    exact = dict(attacked_weights(False).named_parameters())
    assert 0 < displacement_error(attacked_weights(True), start, exact) < 0.1


def test_diverged_attack_ends_with_its_reason(raw):
    adversary = Adversary("hot", "forget", optimizer="sgd", learning_rate=1e12, num_steps=10, batch_size=8)
    record = run_attack(
        tiny_model(), TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.5}, evaluation_steps=[0, 1], max_length=32
    )
    assert record.status == "diverged" and "loss nan" in record.error
    assert record.trajectory[-1]["step"] < 10 and record.after == {"harm": 0.5}
    json.dumps(asdict(record), allow_nan=False)


@pytest.mark.parametrize("evaluation_steps", [None, [0]])
@pytest.mark.parametrize("lora_r", [None, 2])
def test_last_step_that_breaks_the_weights_is_divergence(raw, evaluation_steps, lora_r):
    # its loss is finite, and lr · (gradient + weight decay · weight) is above the largest float32
    breaking = {"optimizer": "sgd", "learning_rate": 1e38, "weight_decay": 1e10, "num_steps": 1, "batch_size": 8}
    adversary, model = Adversary("breaking", "forget", lora_r=lora_r, **breaking), tiny_model()
    record = run_attack(
        model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.5}, evaluation_steps=evaluation_steps, max_length=32
    )
    assert record.status == "diverged" and "is not finite at step 1" in record.error
    assert [point["step"] for point in record.trajectory] == [0]
    assert record.outcome is None and not record.finished and "forward" not in model.__dict__


def test_model_that_is_broken_from_the_start_is_not_evaluated(raw):
    model = tiny_model()
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    for adversary in (replace(ATTACKS[0], num_steps=0), replace(ATTACKS[0], num_steps=1)):
        record = run_attack(model, TOKENIZER, adversary, raw, 0, lambda m: {"harm": 0.0}, max_length=32)
        assert record.status == "diverged" and record.error == "parameter 'model.norm.weight' is not finite at step 0"
        assert record.trajectory == []


def test_missing_value_is_none_and_says_why(raw):
    adversary = replace(ATTACKS[0], num_steps=1)
    record = run_attack(tiny_model(), TOKENIZER, adversary, raw, 0, lambda m: {"harm": None}, max_length=32)
    assert record.error == "harm at step 0 is not a finite number; harm at step 1 is not a finite number"


def test_attack_of_no_steps_leaves_the_model(raw):
    model, before = tiny_model(), weights_sha256(tiny_model())
    record = run_attack(model, TOKENIZER, replace(ATTACKS[0], num_steps=0), raw, 0, lambda m: {"harm": 0.25})
    assert weights_sha256(model) == before and record.after == {"harm": 0.25} and len(record.trajectory) == 1
