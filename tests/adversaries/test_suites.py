"""Suites are plain lists: their sizes, their names, and that each attack is a different one."""

import pytest

from trl_tar import red_teaming
from trl_tar.adversaries import suites


SIZES = {
    suites.knowledge_suite: 26,
    suites.refusal_suite: 5,
    suites.peft_suite: 8,
    suites.benign_suite: 6,
    suites.preference_suite: 4,
    suites.weight_edit_suite: 13,
    suites.composed_suite: 5,
    suites.jailbreak_tuning_suite: 3,
    suites.input_suite: 4,
}


def test_every_suite_has_a_name_a_size_and_is_exported():
    assert set(suites.SUITES.values()) == set(SIZES)
    assert {name for name in red_teaming.__all__ if name.endswith("_suite")} == {suite.__name__ for suite in SIZES}


@pytest.mark.parametrize(("suite", "size"), SIZES.items(), ids=lambda x: getattr(x, "__name__", None))
def test_attacks_have_names_and_kinds_of_their_own(suite, size):
    adversaries = suite()
    assert len(adversaries) == size
    assert len({a.name for a in adversaries}) == size
    assert len({(str(a.kind()), a.num_steps) for a in adversaries}) == size


def test_the_knowledge_suite_spans_the_papers_axes():
    adversaries = suites.knowledge_suite()
    assert {a.num_steps for a in adversaries} == {500}
    assert {a.optimizer for a in adversaries} == {"adamw", "schedule_free_adamw", "sgd", "adadelta", "adagrad"}
    assert {a.lr_scheduler for a in adversaries} == {
        "constant",
        "constant_with_warmup",
        "cosine",
        "cosine_with_restarts",
    }
    assert {a.batch_size for a in adversaries} == {32, 64}
    assert {a.learning_rate for a in adversaries if a.name.startswith("forget-") and a.batch_size == 32} == {
        2e-6,
        2e-5,
        4e-5,
    }
    assert {(a.lora_r, a.lora_alpha, a.lora_dropout) for a in adversaries if a.lora_r} == {(16, 32, 0.05)}
    assert sum(a.mixture is not None for a in adversaries) >= 10
    assert {a.switch_at for a in adversaries if a.first_dataset} == {0.4}


def test_a_scale_multiplies_the_learning_rates_and_long_attacks_have_more_steps():
    usual, scaled = suites.knowledge_suite(), suites.knowledge_suite(2000, learning_rate_scale=50)
    for a, b in zip(usual, scaled, strict=True):
        assert b.num_steps == 2000
        assert b.learning_rate == pytest.approx(a.learning_rate * (1 if a.optimizer == "adadelta" else 50))


def test_the_refusal_suite_is_the_papers():
    table = [(a.learning_rate, a.warmup_steps, a.batch_size) for a in suites.refusal_suite()]
    assert table == [(1e-5, 10, 32), (1e-5, 0, 32), (1e-5, 0, 16), (2e-5, 0, 32), (4e-5, 0, 32)]
