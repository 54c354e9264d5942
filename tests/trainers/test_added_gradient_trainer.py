"""Defences whose step is put together of several gradients: by hand, and against their formulas written out row by row."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset
from support import tiny
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from transformers import TrainerCallback

from trl_tar.simulation.displaced import stepped
from trl_tar.trainers.added_gradient_trainer import cosine
from trl_tar.trainers.baselines.booster import STATE_FILE, BoosterConfig
from trl_tar.trainers.baselines.by_name import BASELINES
from trl_tar.trainers.baselines.ctrap import CTRAPConfig
from trl_tar.trainers.baselines.seam import cosine_gradient


ROWS = tiny.tokenised()


CASES = {  # the beginning of a name is that of the defence
    "booster": {},
    "booster antibody": BoosterConfig.presets["antibody"],
    "ctrap": {},
    "ctrap released": CTRAPConfig.presets["released"],
    "seam": {"radius": 1e-6, "cosine_weight": 0.3},
}


def trainer(folder, case, callback=None, **settings):
    trainer_class = BASELINES[case.split()[0]]
    refusals = {"refusal_dataset": Dataset.from_list(ROWS["rehearsal"])} if case == "booster antibody" else {}
    return trainer_class(
        tiny.gpt2(),
        trainer_class.config_class(str(folder), **{**tiny.TRAINER, "max_steps": 1, **CASES[case], **settings}),
        train_dataset=Dataset.from_list(ROWS["retain"]),
        forget_dataset=Dataset.from_list(ROWS["forget"]),
        processing_class=tiny.tokenizer(),
        callbacks=[] if callback is None else [callback],
        **refusals,
    )


class Held(TrainerCallback):
    """Holds `.grad` and the weights before the optimizer steps."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        self.weights = tiny.weights(model)


def assembled(tmp_path, case, **settings):
    held = Held()
    tested = trainer(tmp_path, case, callback=held, **settings)
    tested.train()
    return held, tested


# --- by hand ----------------------------------------------------------------------------------------------------------


def one(value=1.0):
    return torch.nn.Parameter(torch.tensor([value], dtype=torch.float64))


def test_booster_by_hand():
    w = one()  # f = w² / 2, h = (w − 2)² / 2, α = 0.1, λ = 5
    harm = [w.detach() - 2]
    with stepped([w], harm, 0.1):
        after = w.detach() - 2
    assert (w + 5 * (harm[0] - after)).item() == pytest.approx(0.5)  # w′ = 1.1


@pytest.mark.parametrize(("normalised", "expected"), [(True, 1.21), (False, 1.22)])
def test_ctrap_by_hand(normalised, expected):
    w = one()  # align w² / 2, h = (w − 2)², collapse (w + 1)² / 2, α = λ = 0.1; to second order it would be 1.176
    with stepped([w], [2 * (w.detach() - 2)], 0.1, normalised):
        collapse = w.detach() + 1
    assert (w + 0.1 * collapse).item() == pytest.approx(expected)


@pytest.mark.parametrize("radius", [1e-3, 0.5])
def test_seam_by_hand(radius):
    x = torch.nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))  # h = xᵀAx / 2, b = xᵀx / 2
    a = torch.tensor([[1.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    value, (gradient,) = cosine_gradient([x], lambda: [a @ x.detach()], lambda: [x.detach().clone()], radius)
    assert value == pytest.approx(0.9486833, abs=1e-7)
    assert gradient.tolist() == pytest.approx([0.2213594, -0.2213594], abs=1e-7)
    assert x.tolist() == [1.0, 1.0]


def test_antibody_by_hand():
    safe, difference, refusal = ([torch.tensor(v).double()] for v in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)))
    weight = max(5 - cosine(safe, difference), 0)
    assert (safe[0] + weight * difference[0] + 0.05 * refusal[0]).tolist() == pytest.approx([1.05, 5.05])


# --- against the formula ----------------------------------------------------------------------------------------------


def cross_entropy(model, rows, token=None):
    """Mean over tokens to predict, each row for itself; of `token` in the place of every label."""
    losses = []
    for row in rows:
        logits = model(torch.tensor([row["input_ids"]])).logits[0]
        for t, label in enumerate(row["labels"]):
            if t > 0 and label != -100:
                losses.append(-logits[t - 1].log_softmax(-1)[label if token is None else token])
    return torch.stack(losses).mean()


def layers(model, rows):
    losses = []
    for row in rows:
        states = model(torch.tensor([row["input_ids"]]), output_hidden_states=True).hidden_states
        for state in [model.transformer.ln_f(s) for s in states[:-1]] + [states[-1]]:
            logits = model.lm_head(state[0])
            for t, label in enumerate(row["labels"]):
                if t > 0 and label != -100:
                    losses.append(-logits[t - 1].log_softmax(-1)[label])
    return torch.stack(losses).mean()


def gradient(loss, model, create_graph=False):
    found = torch.autograd.grad(loss, list(model.parameters()), create_graph=create_graph)
    return torch.cat([g.flatten() for g in found])


def moved(direction):
    model = tiny.gpt2()
    vector_to_parameters(parameters_to_vector(model.parameters()).detach() + direction, model.parameters())
    return model


def reference(case, retain, forget, refusals):
    model = tiny.gpt2()
    safe = gradient(cross_entropy(model, retain), model)
    harm = gradient(cross_entropy(model, forget), model)
    if case == "seam":
        h, b = (gradient(cross_entropy(model, rows), model, True) for rows in (forget, retain))
        against = gradient(F.cosine_similarity(h, b, dim=0), model)
        return safe + gradient(-torch.log(1 + layers(model, forget)), model) + 0.3 * against
    stepped_model = moved(-0.1 * harm / (1 if case == "ctrap" else harm.norm()))
    if case.startswith("ctrap"):
        e = tiny.VOCABULARY.index("<unk>")  # "error" is no word of the tokenizer
        return safe + 0.1 * gradient(cross_entropy(stepped_model, retain, e), stepped_model)
    difference = harm - gradient(cross_entropy(stepped_model, forget), stepped_model)
    if case == "booster":
        return safe + 5 * difference
    weight = 5 - F.cosine_similarity(safe, difference, dim=0)
    return safe + weight * difference + 0.05 * gradient(cross_entropy(stepped_model, refusals), stepped_model)


@pytest.mark.parametrize("case", CASES)
def test_a_step_has_the_gradient_of_the_formula_and_the_weights_are_put_back(tmp_path, case):
    """Micro-batches of four rows are padded, those of one row are not, and both give the same."""
    held, tested = assembled(tmp_path, case)
    tested.state.global_step = 0
    drawn = [rows_of(b) for b in tested.draw_forget_batches(1)]
    refusals = rows_of(tested.draw_batches("refusal", tested._refusal_rows, 1)[0]) if case == "booster antibody" else []
    expected = reference(case, ROWS["retain"][:4], drawn[0], refusals)
    assert (held.gradient - expected).norm() < 1e-5 * expected.norm()
    if case != "seam":  # whose difference has an error of the order of its radius
        assert (held.gradient - expected).norm() < 1e-12 * expected.norm()
    assert all(torch.equal(held.weights[name], p) for name, p in tiny.gpt2().named_parameters())
    model = tiny.gpt2()
    retain_only = gradient(cross_entropy(model, ROWS["retain"][:4]), model)
    assert (held.gradient - retain_only).norm() > 0.05 * retain_only.norm()
    logged = tested.state.log_history[0]["retain_loss/lm"]
    assert logged == pytest.approx(cross_entropy(model, ROWS["retain"][:4]).item(), rel=1e-12)

    split, _ = assembled(tmp_path, case, per_device_train_batch_size=1, gradient_accumulation_steps=4)
    assert (split.gradient - held.gradient).norm() < 1e-8 * expected.norm()


def rows_of(batch):
    return [
        {"input_ids": ids[mask.bool()].tolist(), "labels": labels[mask.bool()].tolist()}
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]


# --- what it promises -------------------------------------------------------------------------------------------------


def gain(log):
    """By how much the step on D_forget lowers its loss."""
    return log["forget_loss"] - log["forget_loss/after_step"]


@pytest.mark.parametrize(
    ("case", "settings", "learning_rate", "measured"),
    [
        ("booster", {}, 2e-3, gain),
        ("ctrap", {"forget_weight": 1.0}, 2e-3, lambda log: log["collapse_loss/after_step"]),
        ("seam", {"cosine_weight": 0.0}, 0.02, lambda log: log["forget_loss"]),
        ("seam", {"forget_weight": 0.0, "cosine_weight": 1.0}, 5e-4, lambda log: log["gradient_cosine"]),
    ],
)
def test_training_lowers_what_the_defence_is_about(tmp_path, case, settings, learning_rate, measured):
    """All rows are in each batch, so that steps are compared on the same."""
    settings = {"forget_batch_size": 10, "per_device_train_batch_size": 12, "retain_weight": 0.0, **settings}
    tested = trainer(tmp_path, case, max_steps=5, learning_rate=learning_rate, **settings)
    tested.train()
    logs = tested.state.log_history[:-1]
    assert measured(logs[-1]) < measured(logs[0]) - 5e-3


# --- Antibody's average, and what cannot be trained with ------------------------------------------------------------


def test_the_averaged_weight_goes_on_from_a_checkpoint(tmp_path):
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "decay": 0.5}
    whole = trainer(tmp_path / "whole", "booster antibody", **settings)
    whole.train()
    weights = [log["forget_weight"] for log in whole.state.log_history[:-1]]
    assert len(set(weights)) == 4 and whole.averaged_weight == weights[-1]
    resumed = trainer(tmp_path / "resumed", "booster antibody", **settings)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert resumed.averaged_weight == weights[-1]
    ours, theirs = tiny.weights(resumed.model), tiny.weights(whole.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (tmp_path / "whole" / "checkpoint-2" / STATE_FILE).unlink()
    with pytest.raises(ValueError, match="has no booster_state.json"):
        trainer(tmp_path / "lost", "booster antibody", **settings).train(str(tmp_path / "whole" / "checkpoint-2"))


@pytest.mark.parametrize(
    ("case", "settings", "message"),
    [
        ("booster", {"step_size": 0}, "step_size=0.0. Use a finite number above 0"),
        ("booster", {"target": -1}, "target=-1.0. Use None, or a finite number above 0"),
        ("booster", {"decay": 1.5}, "decay=1.5. Use at least 0 and less than 1"),
        ("booster", {"refusal_weight": 1}, "BoosterTrainer got none as `refusal_dataset`. Give both, or none"),
        ("booster antibody", {"refusal_weight": 0}, "BoosterTrainer got one as `refusal_dataset`. Give both, or none"),
        ("booster antibody", {"forget_batch_size": 10}, "`refusal_dataset` has 9 rows, fewer than the 10"),
        ("ctrap", {"step_size": 0}, "step_size=0.0. Use a finite number above 0"),
        ("ctrap", {"collapse_text": " "}, "collapse_text=' ', which has no token. Give a word"),
        (
            "seam",
            {"bf16": True},
            "bf16=True, and a step of radius=1e-06 over all weights is less than bfloat16 can tell",
        ),
        ("seam", {"radius": 0}, "radius=0.0. Use a finite number above 0"),
    ],
)
def test_unusable_settings_get_one_sentence(tmp_path, case, settings, message):
    with pytest.raises(ValueError) as error:
        trainer(tmp_path, case, **settings)
    assert message in str(error.value)
