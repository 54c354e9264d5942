"""Attacks that go on over outer steps equal a slow twin, and stop and resume with their pool."""

from dataclasses import replace

import pytest
import torch
from datasets import Dataset
from support import continued, tiny
from support.exactness import EXACT, ROWS, Recorded, errors

from trl_tar import Adversary, TARTrainer
from trl_tar.simulation import attacker_pool
from trl_tar.simulation.curriculum import Curriculum
from trl_tar.simulation.progress import Progress
from trl_tar.trainers import honest_users
from trl_tar.trainers.outer_gradient import OuterGradient


STEPS = 14
TASKS = [{**row, "task": i % 3} for i, row in enumerate(tiny.tokenised_language(tiny.text(24, "tasks")))]
LONG = {**tiny.ATTACK, "num_steps": 8}
FULL = Adversary("full", "forget", **LONG)
LORA = Adversary("lora", mixture={"forget": 1, "retain": 1}, lora_r=2, **LONG)
SWITCHED = Adversary("switched", "forget", first_dataset="retain", **{**LONG, "num_steps": 7})
DPO = Adversary("dpo", "pairs", objective="dpo", optimizer="sgd", momentum=0.9, **LONG)
BENIGN = Adversary("benign", "rehearsal", role="benign", **{**LONG, "num_steps": 6})
SHORT = Adversary("short", "forget", **{**tiny.ATTACK, "num_steps": 2})
CONTINUED = {
    "steps_per_visit": 2,
    "num_attackers": 2,
    "tamper_resistance_interval": 1,
    "max_steps": STEPS,
    "learning_rate": 0.02,
}
CASES = {
    "full": ([FULL], {}),
    "lora": ([LORA], {}),
    "switched and whole": ([SWITCHED, SHORT], {"inner_weighting": "uniform"}),
    "dpo": ([DPO], {}),
    "benign": ([BENIGN], {"benign_weight": 3.0, "benign_kl_weight": 5.0, "kl_temperature": 2.0}),
    "clipped": ([FULL, LORA], {"tamper_resistance_max_grad_norm": 0.5}),
    "all in a curriculum": (
        [FULL, LORA, replace(BENIGN, weight=8.0)],  # few are drawn before longer attacks are
        {"adversaries_per_step": 2, "num_attackers": 4, "attack_length_threshold": -1.0, "attack_length_growth": 2.0},
    ),
}


def settings_of(case: str) -> dict:
    adversaries, settings = CASES[case]
    tasks = {"rehearsal": Dataset.from_list(TASKS)}
    return {"adversaries": adversaries, "data": tasks, **CONTINUED, **settings}


def trained(make_trainer, case: str, **settings):
    recorded = Recorded()
    trainer = make_trainer(callbacks=[recorded], **{**settings_of(case), **settings})
    trainer.train()
    return trainer, recorded.steps


EXPECTED = {}


def expected(case: str) -> tuple[list, list]:
    if case not in EXPECTED:
        settings = settings_of(case)
        shared = set(continued.Setup.__dataclass_fields__) - {"adversaries"}
        setup = continued.Setup(
            tiny.gpt2(),
            ROWS["retain"],
            ROWS["tamper_resistance"],
            settings["adversaries"],
            {**ROWS, "rehearsal": TASKS},
            **{name: value for name, value in settings.items() if name in shared},
        )
        EXPECTED[case] = continued.outer_steps(setup, STEPS)
    return EXPECTED[case]


@pytest.mark.parametrize("case", CASES)
def test_continued_attacks_equal_the_slow_twin(make_trainer, case):
    trainer, steps = trained(make_trainer, case)
    weights, visits = expected(case)
    found = errors(steps, weights, tiny.weights(tiny.gpt2()))
    assert max(found) < EXACT
    log = trainer.state.log_history[:STEPS]
    of_a_step = len(visits) // STEPS
    for i, entry in enumerate(log):
        part = visits[i * of_a_step : (i + 1) * of_a_step]
        assert entry["attack_length_maximum"] == part[0]["maximum"]
    ages = {v["age"] for v in visits}
    assert max(ages) > CONTINUED["steps_per_visit"]
    assert {v["adversary"].name for v in visits} == {a.name for a in CASES[case][0]}


def moments_dropped(m):
    m.setattr(Progress, "hand_over", lambda self, *args: None)


def displacement_dropped(m):
    m.setattr(attacker_pool.Attacker, "lay_displacement", lambda self, attacked: None)


def data_begins_again(m):
    original = TARTrainer.attack_steps

    def again(self, attacked, attacker):
        age = attacker.age
        attacker.lay_displacement(attacked)
        attacker.age = 0  # nothing is laid a second time
        steps = original(self, attacked, attacker)
        attacker.age = age
        return steps

    m.setattr(TARTrainer, "attack_steps", again)


def benign_sign_flipped(m):
    original = honest_users._learned

    def flipped(model, batch):
        total, count = original(model, batch)
        return -total, count

    m.setattr(honest_users, "_learned", flipped)


def held_out_rows_are_trained_on(m):
    original = honest_users._split
    m.setattr(
        honest_users, "_split", lambda *args: (lambda trained_on, held_out: (trained_on, trained_on))(*original(*args))
    )


def maximum_never_grows(m):
    m.setattr(Curriculum, "add", lambda self, evaluations: None)


def kept_at_temperature_1(m):
    original = honest_users.kl_divergence_loss
    m.setattr(honest_users, "kl_divergence_loss", lambda *args: original(*args[:3]))


def not_clipped(m):
    original = OuterGradient.set
    m.setattr(OuterGradient, "set", lambda self, max_norm: original(self))


def weights_are_shares_of_lives(m):
    m.setattr(attacker_pool.AttackerPool, "odds", lambda self, adversary: adversary.weight)


FAULTS = [
    (moments_dropped, "full"),
    (displacement_dropped, "full"),
    (displacement_dropped, "lora"),
    (data_begins_again, "full"),
    (benign_sign_flipped, "benign"),
    (held_out_rows_are_trained_on, "benign"),
    (kept_at_temperature_1, "benign"),
    (not_clipped, "clipped"),
    (maximum_never_grows, "all in a curriculum"),
    (weights_are_shares_of_lives, "all in a curriculum"),
]


@pytest.mark.parametrize(("fault", "case"), FAULTS, ids=[f"{fault.__name__}-{case}" for fault, case in FAULTS])
def test_comparison_notices(make_trainer, fault, case):
    with pytest.MonkeyPatch.context() as monkeypatch:
        fault(monkeypatch)
        _, steps = trained(make_trainer, case)
    assert max(errors(steps, expected(case)[0], tiny.weights(tiny.gpt2()))) > 100 * EXACT


@pytest.mark.parametrize(
    "adversary", [SHORT, replace(LORA, num_steps=2), replace(DPO, num_steps=2)], ids=lambda a: a.name
)
def test_a_visit_that_is_the_whole_attack_is_that_attack(make_trainer, adversary):
    def final(**settings):
        trainer = make_trainer(adversaries=[adversary], adversaries_per_step=2, max_steps=3, **settings)
        trainer.train()
        return tiny.weights(trainer.model)

    fresh, continued_ = final(), final(steps_per_visit=2, num_attackers=4)
    assert all(torch.equal(fresh[n], continued_[n]) for n in fresh)


@pytest.mark.parametrize("optim", ["sgd", "schedule_free_adamw"])
def test_resumed_run_is_bitwise_the_run_without_a_stop(make_trainer, tmp_path, optim):
    schedule_free = replace(FULL, name="schedule-free", optimizer="schedule_free_adamw")
    cosine = replace(LORA, name="cosine", lr_scheduler="cosine", warmup_steps=1)
    settings = {"adversaries": [FULL, cosine, schedule_free, BENIGN], "optim": optim, "max_steps": 9}
    settings["initial_attack_length"] = 6

    def final(folder, resume=None, **more):
        trainer = make_trainer(
            output_dir=tmp_path / folder, **{**settings_of("all in a curriculum"), **settings, **more}
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = final("whole", save_strategy="steps", save_steps=1)
    ages = [torch.load(tmp_path / "whole" / f"checkpoint-{step}" / "tar_attackers_0.pt")["slots"] for step in (3, 5)]
    assert any(slot is not None and slot["age"] > 0 for slots in ages for slot in slots)
    for step in (3, 5):
        checkpoint = str(tmp_path / "whole" / f"checkpoint-{step}")
        resumed = final(f"from-{step}", checkpoint)
        weights = tiny.weights(whole.model)
        assert all(torch.equal(weights[n], w) for n, w in tiny.weights(resumed.model).items())
        assert resumed.pool.curriculum.state_dict() == whole.pool.curriculum.state_dict()
    for other in ({"num_attackers": 2}, {"steps_per_visit": 1}, {"adversaries": [FULL]}):
        with pytest.raises(ValueError, match="these adversaries, so they could not go on"):
            final("other", checkpoint, **other)
    (tmp_path / "whole" / "checkpoint-5" / "tar_attackers_0.pt").unlink()
    with pytest.raises(ValueError, match="has no attackers of steps_per_visit=2"):
        final("none", checkpoint)


def test_attackers_that_diverge_begin_again(make_trainer):
    wild = Adversary("wild", "forget", optimizer="sgd", learning_rate=1e200, batch_size=4, num_steps=8)
    trainer = make_trainer(**{**CONTINUED, "adversaries": [wild], "max_steps": 6, "num_attackers": 1})
    start = tiny.weights(trainer.model)
    trainer.train()
    log = trainer.state.log_history[:6]
    assert all(entry["attacks_diverged"] == 1.0 for entry in log) and trainer.pool.slots == [None]
    after = tiny.weights(trainer.model)
    assert all(w.isfinite().all() for w in after.values()) and any(not torch.equal(after[n], start[n]) for n in start)


def test_offloaded_attackers_are_the_same(make_trainer):
    def final(**settings):
        trainer, _ = trained(make_trainer, "all in a curriculum", max_steps=8, **settings)
        return tiny.weights(trainer.model)

    here, on_host = final(), final(offload=True)
    assert all(torch.equal(here[n], on_host[n]) for n in here)


def test_log_has_ages_and_what_honest_users_lose(make_trainer):
    trainer, _ = trained(make_trainer, "all in a curriculum", logging_steps=STEPS)
    log = trainer.state.log_history[0]
    assert 2 <= log["attack_age"] <= 8 and 2 < log["attack_length_maximum"] <= 8
    buckets = sorted(name for name in log if name.startswith("tamper_resistance_loss/age_"))
    assert buckets == [f"tamper_resistance_loss/age_{age}" for age in (1, 2, 4)]
    assert log["benign_loss/learned"] > 0 and log["benign_loss/kept"] > 0
    fresh = make_trainer()
    fresh.train()
    assert not any("age" in name or "attack_length" in name for name in fresh.state.log_history[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tamper_resistance_interval": 4}, "no visit would be judged"),
        ({"num_attackers": 3, "adversaries_per_step": 2}, "Use a multiple of it"),
        ({"initial_attack_length": 1}, "Use at least the steps of one visit"),
        ({"optimizer_in_backward": True}, "keeps no moments"),
        ({"attack_length_growth": 1.0}, "Use a number above 1"),
        ({"attack_length_threshold": "low"}, "as a number"),
    ],
)
def test_settings_that_cannot_be_are_refused(make_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**{**CONTINUED, **settings})


def test_tasks_with_too_few_rows_are_refused(make_trainer):
    few = Dataset.from_list(TASKS[:12])
    with pytest.raises(ValueError, match="task 0 of 'rehearsal' has 3 in addition to those held out"):
        make_trainer(adversaries=[BENIGN], data={"rehearsal": few}, **CONTINUED)
