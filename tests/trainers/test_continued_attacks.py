"""Attacks that go on over outer steps equal a slow twin, and stop and resume with their pool."""

import pytest
from datasets import Dataset
from support import continued, tiny
from support.exactness import EXACT, ROWS, Recorded, errors

from trl_tar import Adversary


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
    "benign": ([BENIGN], {"benign_weight": 3.0}),
    "all in a curriculum": (
        [FULL, LORA, BENIGN],
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
