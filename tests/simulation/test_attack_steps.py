"""A simulated attack steps as the named optimizer does, and one that diverges harms nothing else."""

import math
import random

import pytest
import schedulefree
import torch
from support import tiny
from support.exactness import FULL
from support.simulated import ATTACK, COLLATE, ROWS, batches, loss_function, plain
from transformers import (
    get_scheduler,
)

from trl_tar import Adversary
from trl_tar.adversaries.diverged import AttackDiverged
from trl_tar.optim.attack_optimizers import scheduler_arguments
from trl_tar.simulation.attack_steps import attack_steps
from trl_tar.simulation.restored import restored
from trl_tar.trainers import tar_trainer


def schedule(adversary: Adversary, step: int) -> float:
    """Factor on the learning rate at a step counted from 0."""
    warmup, total = adversary.warmup_steps, adversary.num_steps
    if adversary.lr_scheduler != "constant" and step < warmup:
        return step / warmup
    if adversary.lr_scheduler == "cosine":
        return (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return 1.0


OPTIMIZED = [
    Adversary("adamw", "forget", **ATTACK),
    Adversary("adamw-warm-up", "forget", lr_scheduler="constant_with_warmup", warmup_steps=3, **ATTACK),
    Adversary("adamw-cosine", "forget", lr_scheduler="cosine", warmup_steps=2, **ATTACK),
    Adversary("sgd", "forget", optimizer="sgd", **ATTACK),
    Adversary("sgd-cosine", "forget", optimizer="sgd", lr_scheduler="cosine", **ATTACK),
    Adversary("sgd-momentum", "forget", optimizer="sgd", momentum=0.9, **ATTACK),
    Adversary("sgd-nesterov", "forget", optimizer="sgd", momentum=0.9, nesterov=True, **ATTACK),
    Adversary("adadelta", "forget", optimizer="adadelta", **{**ATTACK, "learning_rate": 1.0}),
    Adversary("adagrad", "forget", optimizer="adagrad", **ATTACK),
    Adversary("clipped", "forget", max_grad_norm=0.3, optimizer="sgd", **ATTACK),
    Adversary("schedule-free", "forget", optimizer="schedule_free_adamw", **ATTACK),
    Adversary("schedule-free-warm-up", "forget", optimizer="schedule_free_adamw", warmup_steps=3, **ATTACK),
]


def plain_loop(adversary: Adversary) -> list[dict[str, torch.Tensor]]:
    """Weights after each step, by the optimizer's own class and the schedule's formula."""
    model = plain()
    named = dict(model.named_parameters())
    exempt = [n for n in named if n.endswith("bias") or "ln_" in n]
    groups = [
        {"params": [p for n, p in named.items() if n not in exempt], "weight_decay": adversary.weight_decay},
        {"params": [named[n] for n in exempt], "weight_decay": 0.0},
    ]
    lr = adversary.learning_rate
    optimizer = {
        "adamw": lambda: torch.optim.AdamW(groups, lr),
        "sgd": lambda: torch.optim.SGD(groups, lr, adversary.momentum, nesterov=adversary.nesterov),
        "adadelta": lambda: torch.optim.Adadelta(groups, lr),
        "adagrad": lambda: torch.optim.Adagrad(groups, lr),
        "schedule_free_adamw": lambda: schedulefree.AdamWScheduleFree(groups, lr, warmup_steps=adversary.warmup_steps),
    }[adversary.optimizer]()
    schedule_free = adversary.optimizer == "schedule_free_adamw"
    steps = []
    for step, (batch,) in enumerate(batches(adversary.num_steps)):
        if schedule_free:
            optimizer.train()
        else:
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule(adversary, step)
        total, count = loss_function(model, batch)
        for p, g in zip(named.values(), torch.autograd.grad(total, list(named.values())), strict=True):
            p.grad = g / count
        if adversary.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(named.values(), adversary.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        if schedule_free:
            optimizer.eval()  # x, the averaged point
        steps.append(tiny.weights(model))
    return steps


@pytest.mark.parametrize("adversary", OPTIMIZED, ids=lambda a: a.name)
def test_every_optimizer_and_schedule_steps_like_its_own_class(adversary):
    model = plain()
    expected, found = plain_loop(adversary), {}
    with restored(model, adversary, seed=0) as attacked:
        for k in attack_steps(attacked, adversary, batches(adversary.num_steps), loss_function, 2):
            found[k] = tiny.weights(model)
    assert sorted(found) == [1, 3, 5]
    for k, actual in found.items():
        # not 1e-10: key biases have gradient 0 but for rounding of about 1e-18, which Adam divides by its ε of 1e-8
        assert tiny.displacement_error(actual, expected[k], tiny.weights(model)) < 1e-8


def test_warm_restarts_restart():
    rates = {}
    for schedule in ("cosine", "cosine_with_restarts"):
        adversary = Adversary("a", "forget", lr_scheduler=schedule, num_steps=40, learning_rate=1.0)
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        steps = {"num_warmup_steps": 0, "num_training_steps": 40}
        scheduler = get_scheduler(
            schedule, optimizer, scheduler_specific_kwargs=scheduler_arguments(adversary), **steps
        )
        rates[schedule] = []
        for _ in range(40):
            rates[schedule].append(scheduler.get_last_lr()[0])
            optimizer.step()
            scheduler.step()
    assert [step for step, rate in enumerate(rates["cosine_with_restarts"]) if rate == 1.0] == [0, 10, 20, 30]
    assert rates["cosine"].count(1.0) == 1


def test_schedule_free_attacker_is_judged_at_the_average_and_steps_elsewhere():
    adversary = Adversary("schedule-free", "forget", optimizer="schedule_free_adamw", **ATTACK)
    model, judged = plain(), []
    seen = []

    def watched(model, batch):
        seen.append(tiny.weights(model))
        return loss_function(model, batch)

    with restored(model, adversary, seed=0) as attacked:
        for _ in attack_steps(attacked, adversary, batches(adversary.num_steps), watched, 2):
            judged.append(tiny.weights(model))
    for x, y in zip(judged, seen[2::2], strict=False):  # y, where the next gradient is taken
        assert not all(torch.allclose(x[n], y[n], rtol=0, atol=1e-6) for n in x)


def test_no_steps_judges_the_model_itself_once():
    model = plain()
    adversary = Adversary("none", "forget", num_steps=0)
    with restored(model, adversary, seed=0) as attacked:
        assert list(attack_steps(attacked, adversary, [], loss_function, 2)) == [-1]


DIVERGING = [
    Adversary("sgd", "forget", optimizer="sgd", **{**tiny.ATTACK, "learning_rate": 1e300}),
    Adversary("adamw", "forget", **{**tiny.ATTACK, "learning_rate": 1e308}),
    Adversary("lora", "forget", lora_r=2, **{**tiny.ATTACK, "learning_rate": 1e200}),
    Adversary("last-step", "forget", optimizer="sgd", **{**tiny.ATTACK, "learning_rate": 1e300, "num_steps": 2}),
]


@pytest.mark.parametrize("loss", ["entropy", "negative_cross_entropy", "inverse_cross_entropy", "dpo"])
@pytest.mark.parametrize("adversary", DIVERGING, ids=lambda a: a.name)
def test_diverged_attack_ends_is_counted_and_leaves_finite_weights(make_trainer, adversary, loss):
    trainer = make_trainer(adversaries=[adversary], max_steps=2, tamper_resistance_loss=loss)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["attacks_diverged"] == 1.0
    assert all(math.isfinite(value) for value in log.values())
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def infinite_gradient(model, batch):
    """A finite loss whose gradient is not: √x at 0."""
    total, count = loss_function(model, batch)
    return total + torch.sqrt(total - total.detach()), count


def test_an_attack_whose_gradient_alone_is_not_finite_has_diverged():
    model = plain()
    with pytest.raises(AttackDiverged, match="loss nan at step 1"), restored(model, FULL, seed=0) as attacked:
        list(attack_steps(attacked, FULL, batches(4), infinite_gradient))


def test_infinite_gradient_of_an_attack_is_counted_and_leaves_finite_weights(make_trainer, monkeypatch):
    monkeypatch.setattr(tar_trainer, "attack_loss", lambda adversary: infinite_gradient)
    trainer = make_trainer(max_steps=2, tamper_resistance_interval=1)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["attacks_diverged"] == 1.0
    assert log["grad_norm/tamper_resistance"] == 0.0  # not one judgement behind the step that broke
    assert "tamper_resistance_loss/first" not in log
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_diverged_attack_does_not_touch_the_others(make_trainer):
    def final(adversaries, **settings):
        trainer = make_trainer(adversaries=adversaries, max_steps=1, **settings)
        trainer.train()
        return tiny.weights(trainer.model), trainer.state.log_history[0]

    good = Adversary("good", "forget", **tiny.ATTACK)
    seed = next(s for s in range(100) if _drawn(s, 2) == [0, 1])
    both, log = final([good, DIVERGING[0]], adversaries_per_step=2, seed=seed)
    assert log["attacks_diverged"] == 0.5
    # the share of the diverged attack is missing, and λ_TR / S is still that of two
    alone, _ = final([good], tamper_resistance_weight=1.0, seed=seed)
    assert tiny.displacement_error(both, alone, tiny.weights(tiny.gpt2())) < 1e-10


def _drawn(seed: int, count: int) -> list[int]:
    return random.Random(f"{seed} adversaries 0").choices(range(2), [1.0, 1.0], k=count)


def test_adversary_without_a_token_to_predict_is_one_sentence():
    model = plain()
    empty = {**COLLATE(ROWS[:2]), "labels": torch.full((2, 20), -100)[:, : COLLATE(ROWS[:2])["labels"].shape[1]]}
    with pytest.raises(ValueError, match="no token to predict"), restored(model, FULL, seed=0) as attacked:
        list(attack_steps(attacked, FULL, [[empty]], loss_function))
