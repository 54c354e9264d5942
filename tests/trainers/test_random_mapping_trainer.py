"""Random mapping: its objective, its counts, and what it is for."""

import pytest
import torch
from datasets import Dataset
from support import tiny

from trl_tar import RandomMappingConfig, RandomMappingTrainer


SETTINGS = {**tiny.TRAINER, "max_steps": 2, "forget_batch_size": 4}


def trainer(tmp_path, model=None, forget=None, retain=None, **settings):
    rows = tiny.tokenised()
    return RandomMappingTrainer(
        tiny.gpt2() if model is None else model,
        RandomMappingConfig(str(tmp_path), **{**SETTINGS, **settings}),
        train_dataset=Dataset.from_list(rows["retain"]) if retain is None else retain,
        forget_dataset=Dataset.from_list(rows["forget"]) if forget is None else forget,
        processing_class=tiny.tokenizer(),
    )


def expected_loss(model, retain, forget, targets, signed):
    """The equation, row by row and layer by layer."""
    cosines, losses = [], []
    for row in forget:
        ids = torch.tensor([row["input_ids"]])
        for h in model(ids, output_hidden_states=True).hidden_states:
            for state, token in zip(h[0], row["input_ids"], strict=True):
                cosine = state @ targets[token] / (state.norm() * targets[token].norm())
                cosines.append(1 - (cosine if signed else cosine.abs()))
    for row in retain:
        log_p = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
        losses += [-log_p[t - 1, label] for t, label in enumerate(row["labels"]) if t > 0 and label != -100]
    return torch.stack(cosines).mean() + torch.stack(losses).mean()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("target", ["token", "global"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_one_step_is_the_gradient_of_the_equation(tmp_path, signed, target, accumulation):
    settings = {"signed": signed, "target": target, "max_steps": 1, "gradient_accumulation_steps": accumulation}
    settings |= {"per_device_train_batch_size": 4 // accumulation, "forget_batch_size": 10 // accumulation}
    tested = trainer(tmp_path, **settings)
    batches = drawn_by(tested)
    start = tiny.weights(tested.model)
    tested.train()

    model = tiny.gpt2()
    collated = [row for batch in batches for row in unpadded(batch)]
    loss = expected_loss(model, tiny.tokenised()["retain"][:4], collated, tested._targets.double(), signed)
    loss.backward()
    expected = {name: p.detach() - 0.1 * p.grad for name, p in model.named_parameters()}
    assert tiny.displacement_error(tiny.weights(tested.model), expected, start) < 1e-10


def unpadded(batch):
    return [
        {"input_ids": ids[mask.bool()].tolist()}
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]


def drawn_by(trainer):
    """The micro-batches of D_forget, as they are drawn."""
    draw, batches = trainer.draw_forget_batches, []

    def kept(micro_batches):
        found = draw(micro_batches)
        batches.extend(found)
        return found

    trainer.draw_forget_batches = kept
    return batches


def test_log_has_both_terms(tmp_path):
    tested = trainer(tmp_path)
    tested.train()
    entry = tested.state.log_history[0]
    assert entry["loss"] == pytest.approx(entry["retain_loss/lm"] + entry["forget_loss"], rel=1e-4)


def test_a_batch_without_a_token_to_predict_has_no_retain_loss(tmp_path):
    """Of the second batch, nothing of D_retain reaches the weights."""
    rows = [row for row in tiny.tokenised()["retain"] if sum(label != -100 for label in row["labels"]) > 1][:2]
    nothing = {**rows[0], "input_ids": [3], "labels": [3]}
    nothing = {name: value[:1] if isinstance(value, list) else value for name, value in nothing.items()}
    made = []
    for weight in (1.0, 1e6):
        tested = trainer(
            tmp_path,
            per_device_train_batch_size=1,
            retain_weight=weight,
            retain=Dataset.from_list([nothing, rows[0]]),
            max_steps=1,
        )
        tested.train()
        made.append(tiny.weights(tested.model))
        (log,) = [entry for entry in tested.state.log_history if "forget_loss" in entry]
        assert "retain_loss/lm" not in log and log["loss"] == pytest.approx(log["forget_loss"], rel=1e-3)
    for name, p in made[0].items():
        assert p.isfinite().all() and torch.equal(p, made[1][name]), name


def test_random_vectors_depend_on_the_seed_alone(tmp_path):
    first, second, other = trainer(tmp_path), trainer(tmp_path), trainer(tmp_path, seed=1)
    assert torch.equal(first._targets, second._targets)
    assert not torch.equal(first._targets, other._targets)


def test_hidden_states_of_hazardous_text_turn(tmp_path):
    tested = trainer(tmp_path, max_steps=60, optim="adamw_torch", learning_rate=1e-2, forget_weight=10.0)
    tested.train()
    losses = [entry["forget_loss"] for entry in tested.state.log_history if "forget_loss" in entry]
    assert sum(losses[-5:]) / 5 < 0.6 * losses[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target": "layer"}, "target='layer'. Use one of 'token', 'global'"),
        ({"forget_weight": float("nan")}, "forget_weight=nan. Use a finite number"),
        ({"packing": True}, "packing=True"),
        ({"forget_batch_size": 99}, "`forget_dataset` has 10 rows, fewer than the 99"),
    ],
)
def test_unusable_settings_get_one_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError) as error:
        trainer(tmp_path, **settings)
    assert message in str(error.value)


def test_unusable_data_gets_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="`forget_dataset` has 0 rows"):
        trainer(tmp_path, forget=Dataset.from_list([{"text": "w1"}]).select([]))
    with pytest.raises(ValueError, match=r"`forget_dataset` has columns \['words'\]"):
        trainer(tmp_path, forget=Dataset.from_list([{"words": "w1"}]))
