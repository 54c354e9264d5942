"""Distillation from a reference, against a loop in float64 over single rows."""

import pytest
import torch
from datasets import Dataset
from support import tiny

from trl_tar.trainers.distillation_config import DistillationConfig
from trl_tar.trainers.distillation_trainer import DistillationTrainer
from trl_tar.views.training_table import phase_settings


EXACT = 1e-10  # of the displacement, float64
ROWS = tiny.tokenised()["retain"]


def reference_model():
    return tiny.gpt2(seed=1)


def trained(tmp_path, **settings) -> DistillationTrainer:
    trainer = DistillationTrainer(
        tiny.gpt2(),
        DistillationConfig(str(tmp_path), **{**tiny.TRAINER, **settings}),
        train_dataset=Dataset.from_list(ROWS),
        ref_model=reference_model(),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    return trainer


def expected_steps(count: int, batch_size: int, learning_rate: float):
    """Plain SGD on Σ_t Σ_v p_ref log(p_ref / p_θ), each row alone and unpadded, over the number of labels."""
    model, reference, losses = tiny.gpt2().eval(), reference_model().eval(), []
    for step in range(count):
        total, tokens = torch.zeros((), dtype=torch.float64), 0
        for row in ROWS[step * batch_size : (step + 1) * batch_size]:
            ids = torch.tensor([row["input_ids"]])
            p, q = (m(input_ids=ids).logits[0].softmax(-1) for m in (reference, model))
            for t, label in enumerate(row["labels"][1:]):
                if label != -100:
                    total = total + (p[t].detach() * (p[t].detach() / q[t]).log()).sum()
                    tokens += 1
        model.zero_grad()
        (total / tokens).backward()
        losses.append((total / tokens).item())
        with torch.no_grad():
            for weight in model.parameters():
                weight -= learning_rate * weight.grad
    return tiny.weights(model), losses


@pytest.mark.parametrize(("micro_batch", "accumulated"), [(4, 1), (2, 2)])
def test_steps_are_those_of_a_slow_loop(tmp_path, micro_batch, accumulated):
    shapes = {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulated}
    trainer = trained(tmp_path, **shapes)
    expected, losses = expected_steps(3, 4, 0.1)
    assert tiny.displacement_error(tiny.weights(trainer.model), expected, tiny.weights(tiny.gpt2())) < EXACT
    logged = [entry["retain_loss/kl"] for entry in trainer.state.log_history if "retain_loss/kl" in entry]
    assert logged == pytest.approx(losses, abs=1e-10)


def test_the_reference_stays_and_is_reached(tmp_path):
    trainer = trained(tmp_path, max_steps=30, optim="adamw_torch", learning_rate=1e-2, num_train_epochs=100)
    kept = tiny.weights(trainer.reference.other)
    assert all(torch.equal(value, kept[name]) for name, value in tiny.weights(reference_model()).items())
    losses = [entry["retain_loss/kl"] for entry in trainer.state.log_history if "retain_loss/kl" in entry]
    assert losses[-1] < losses[0] / 2


def test_evaluation_is_the_same_mean(tmp_path):
    trainer = trained(tmp_path, max_steps=1, learning_rate=1e-30)
    _, (loss,) = expected_steps(1, 4, 0.0)
    assert trainer.evaluate(Dataset.from_list(ROWS[:4]))["eval_loss"] == pytest.approx(loss, abs=1e-6)


def test_a_reference_of_another_architecture_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ref_model"):
        DistillationTrainer(
            tiny.gpt2(),
            DistillationConfig(str(tmp_path), **tiny.TRAINER),
            train_dataset=Dataset.from_list(ROWS),
            ref_model=tiny.llama(num_hidden_layers=1),
            processing_class=tiny.tokenizer(),
        )


def test_a_card_names_the_method():
    settings = DistillationConfig("x", use_cpu=True, bf16=False).to_dict()
    rows = {row["label"]: row["cells"] for row in phase_settings([{"name": "repair", "settings": settings}])}
    assert rows["loss"] == ["distillation from the base"] and "λ_TR" not in rows
