"""Adversaries as YAML has them."""

import pytest

from trl_tar import Adversary, sweep
from trl_tar.adversaries.from_yaml import adversaries_of


def test_a_sweep_makes_one_of_each_combination():
    mix = {"name": "mix", "mixture": {"a": 0.5, "b": 0.5}, "weight": 0.5}
    rows = [{"name": "plain", "dataset": "a"}, {**mix, "sweep": {"learning_rate": [1e-3, 2e-3], "lora_r": [4, 8]}}]
    expected = [Adversary("plain", "a"), *sweep(Adversary(**mix), learning_rate=[1e-3, 2e-3], lora_r=[4, 8])]
    assert adversaries_of(rows) == expected and len(expected) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"name": "x", "dataset": "a", "sweep": [1]}, "Adversary 0 of the suite is .*Give the fields of Adversary."),
        (
            {"name": "x", "dataset": "a", "sweep": {"rate": [1]}},
            "sweep.. got 'rate', which is not a field of Adversary",
        ),
        (3, "Adversary 0 of the suite is 3"),
    ],
)
def test_what_is_no_adversary_is_one_sentence(row, message):
    with pytest.raises(ValueError, match=message):
        adversaries_of([row])
