import math

import pytest
import torch
from support import tiny
from support.baselines import trainer
from transformers import TrainerCallback

from trl_tar.trainers.baselines.vaccine import VaccineTrainer, scaled


def test_vaccine_by_hand():
    first, second = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    length = math.hypot(3, 4)
    assert scaled(first, length, 2.0).tolist() == pytest.approx([1.2, 0.0])
    assert scaled(second, length, 2.0).tolist() == pytest.approx([0.0, 1.6])
    assert scaled(torch.zeros(2), 0.0, 2.0).tolist() == [0.0, 0.0]


class Gradient(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.of_step = [p.grad.clone() for p in model.parameters()]


def test_a_step_has_the_gradient_at_the_shifted_outputs_of_the_global_batch(tmp_path):
    """Row by row, with shifts that are added inside the attention's output by a tensor for each row."""
    seen = Gradient()
    tested = trainer(tmp_path, VaccineTrainer, radius=1.5)
    tested.add_callback(seen)
    tested.train()

    model, rows = tiny.gpt2(), tested.train_dataset.to_list()[:4]
    shifts = [[torch.zeros(1, len(row["input_ids"]), 8).double() for _ in range(2)] for row in rows]

    def loss():
        losses = []
        for row, shift in zip(rows, shifts, strict=True):
            hooks = [
                block.attn.register_forward_hook(lambda *a, e=e: (a[2][0] + e, *a[2][1:]))
                for block, e in zip(model.transformer.h, shift, strict=True)
            ]
            log_p = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            for hook in hooks:
                hook.remove()
            losses += [-log_p[t - 1, y] for t, y in enumerate(row["labels"]) if t > 0 and y != -100]
        return torch.stack(losses).mean()

    flat = [e.requires_grad_() for shift in shifts for e in shift]
    clean = loss()
    gradients = torch.autograd.grad(clean, flat)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    shifts = [[1.5 * g / norm for g in gradients[2 * i : 2 * i + 2]] for i in range(len(rows))]
    shifted = loss()
    for ours, theirs in zip(seen.of_step, torch.autograd.grad(shifted, list(model.parameters())), strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)
    log = tested.state.log_history[0]
    assert log["retain_loss/unshifted"] == pytest.approx(clean.item(), rel=1e-10)
    assert log["retain_loss/lm"] == pytest.approx(shifted.item(), rel=1e-10)
    assert shifted > clean + 0.1


def test_training_lowers_the_loss_at_shifted_outputs(tmp_path):
    tested = trainer(tmp_path, VaccineTrainer, max_steps=5, per_device_train_batch_size=6, learning_rate=0.02)
    tested.train()
    first, *_, last = (log["retain_loss/lm"] for log in tested.state.log_history[:-1])
    assert last < first - 0.1


def test_checkpointing_changes_nothing(tmp_path):
    found = []
    for checkpointing in (False, True):
        tested = trainer(tmp_path, VaccineTrainer, gradient_checkpointing=checkpointing)
        tested.train()
        found.append(tiny.weights(tested.model))
    assert tiny.displacement_error(found[1], found[0], tiny.weights(tiny.gpt2())) < 1e-10


def test_a_model_without_known_attention_is_refused(tmp_path):
    model = tiny.gpt2()
    for block in model.transformer.h:
        block.mixing = block.attn
        del block._modules["attn"]
        block.__dict__["attn"] = block.mixing
    with pytest.raises(ValueError, match="has no attention in layer 0"):
        trainer(tmp_path, VaccineTrainer, model)


def test_unusable_settings_get_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="radius=0.0. Use a finite number above 0"):
        trainer(tmp_path, VaccineTrainer, radius=0)
