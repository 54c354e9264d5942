import math

import pytest
import torch
from datasets import Dataset
from support import tiny
from support.baselines import ROWS, saying, trainer, two

from trl_tar.losses import inverse_cross_entropy_loss, language_modeling_loss
from trl_tar.models.module_outputs import outputs_shifted
from trl_tar.trainers.baselines.r2d2 import R2D2Trainer, mean_length, projected, prompt_mask, with_refusal


STRONG = {"step_size": 0.05, "radius": 0.3}


def test_r2d2_by_hand():
    ids = torch.zeros(1, 3, dtype=torch.long)
    away = inverse_cross_entropy_loss(saying([two(0.5), two(math.exp(-6))])().logits, ids, -5)
    toward = language_modeling_loss(saying([two(0.25)])().logits, ids[:, :2])
    retain = language_modeling_loss(saying([two(0.5)])().logits, ids[:, :2])
    total = retain[0] + 0.5 * away[0] / away[1] + 0.5 * toward[0] / toward[1]
    assert total.item() == pytest.approx(1.5595812, abs=1e-7)  # log 2 + ½ · ½ log 2 + ½ log 4


def test_projection_by_hand():
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(projected(delta, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]]))


def test_a_refusal_follows_each_prompt():
    labels = torch.tensor([[-100, -100, 7, 8], [-100, 5, 6, -100]])
    batch = {"input_ids": torch.tensor([[2, 3, 7, 8], [4, 5, 6, 0]]), "labels": labels}
    refused = with_refusal(batch, [9, 1])
    assert refused["input_ids"].tolist() == [[2, 3, 9, 1], [4, 9, 1, 0]]
    assert refused["labels"].tolist() == [[-100, -100, 9, 1], [-100, 9, 1, -100]]
    assert refused["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]


def test_an_attack_makes_the_answer_likelier_within_its_radius_and_leaves_gradients_alone(tmp_path):
    tested = trainer(tmp_path, R2D2Trainer, **STRONG)
    (batch,) = tested.draw_forget_batches(1)
    embeddings, prompts = tested.model.get_input_embeddings(), prompt_mask(batch["labels"])
    delta = tested.attack(batch)

    def loss(shift):
        with torch.no_grad(), outputs_shifted([embeddings], {embeddings: shift}):
            return tested.retain_loss(tested.model, batch)[0]

    assert loss(delta) < loss(torch.zeros_like(delta)) - 0.1
    radius = 0.3 * embeddings.weight.norm(dim=1).mean()
    assert mean_length(embeddings).item() == pytest.approx(radius.item() / 0.3)
    lengths = delta.norm(dim=-1)
    assert (lengths <= radius * (1 + 1e-12)).all() and (lengths[prompts] > 0).all() and (lengths[~prompts] == 0).all()
    assert all(p.grad is None for p in tested.model.parameters())


def test_a_step_has_the_gradient_of_the_formula_at_the_attacked_prompts(tmp_path):
    """Row by row, on the embeddings themselves."""
    tested = trainer(tmp_path, R2D2Trainer, **STRONG)
    (batch,) = tested.draw_forget_batches(1)
    model, sums, counts = tiny.gpt2(), torch.zeros(2).double(), torch.zeros(2)
    radius = 0.3 * model.transformer.wte.weight.detach().norm(dim=1).mean()
    refusal = [*tested.processing_class.encode("Sorry, I can't do that."), 1]
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        ids, labels = ids[mask.bool()], labels[mask.bool()]
        prompt = int((labels == -100).sum())
        embedded = model.transformer.wte(ids)
        delta = torch.zeros_like(embedded[:prompt])

        def log_probs(shift, following, prompt=prompt, ids=ids):
            read = torch.cat([ids[:prompt], following])
            shifted = model.transformer.wte(read) + torch.nn.functional.pad(shift, (0, 0, 0, len(following)))
            log_p = model(inputs_embeds=shifted[None]).logits[0].log_softmax(-1)
            return log_p[prompt - 1 : -1].gather(1, following[:, None])[:, 0]

        for _ in range(10):
            delta.requires_grad_()
            (gradient,) = torch.autograd.grad(-log_probs(delta, ids[prompt:]).sum(), delta)
            delta = delta.detach() - 0.05 * gradient.sign()
            delta = delta * (radius / delta.norm(dim=-1, keepdim=True)).clamp(max=1)
        away, toward = log_probs(delta, ids[prompt:]), log_probs(delta, torch.tensor(refusal))
        sums = sums + torch.stack([(-torch.log1p(-away.exp()))[away >= -5].sum(), -toward.sum()])
        counts += torch.tensor([len(away), len(toward)])
    expected = torch.autograd.grad((sums / counts).sum(), list(model.parameters()))
    found = torch.autograd.grad(
        (tested.forget_loss(tested.model, batch) / tested.forget_count(batch)).sum(), list(tested.model.parameters())
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threshold": 0.5}, "threshold=0.5. Use a finite log-probability below 0"),
        ({"step_size": 0}, "step_size=0.0. Use a finite number above 0"),
        ({"num_steps": 0}, "num_steps=0. Use at least 1"),
        ({"refusal": "w1 " * 20}, "`forget_dataset` has prompts that make 25 tokens with the refusal"),
    ],
)
def test_unusable_settings_get_one_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError) as error:
        trainer(tmp_path, R2D2Trainer, **settings)
    assert message in str(error.value)


def test_rows_without_a_prompt_are_refused(tmp_path):
    tested = trainer(tmp_path, R2D2Trainer)
    with pytest.raises(ValueError, match="`forget_dataset` has rows without a prompt"):
        R2D2Trainer(
            tiny.gpt2(),
            tested.args,
            train_dataset=Dataset.from_list(ROWS["retain"]),
            forget_dataset=Dataset.from_list(ROWS["rehearsal"]),
            processing_class=tiny.tokenizer(),
        )
