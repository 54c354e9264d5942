"""Every expected value is derived by hand in the comment beside it."""

import math

import pytest
import torch

from trl_tar.evaluation.multiple_choice import choose
from trl_tar.evaluation.scores import Scores
from trl_tar.records import AttackRecord, ModelRecord
from trl_tar.red_teaming.jobs import mean_score
from trl_tar.statistics import (
    clustered_standard_error,
    floor_harm,
    mean,
    median_interval,
    over_seeds,
    paired_differences,
    recovery,
    selectivity,
    steps_to_break,
    t_interval,
    trainability,
)


def attack(adversary, seed, harm, status="completed"):
    after = None if status == "failed" else {"harm": harm, "capability": 0.8}
    return AttackRecord(adversary, seed, status, after=after)


def record(*attacks):
    return ModelRecord(model={}, before={"harm": 0.9, "capability": 0.9}, attacks=list(attacks))


def test_t_interval_is_that_of_the_table():
    # mean 0.5, s = 0.1, t(0.975, 2) = 4.302653: half-width 4.302653 · 0.1 / √3
    half = 4.302653 * 0.1 / math.sqrt(3)
    expected = {"mean": 0.5, "low": 0.5 - half, "high": 0.5 + half, "n": 3}
    assert t_interval([0.4, 0.5, 0.6]) == pytest.approx(expected, abs=1e-6)


def test_interval_of_one_value_is_none_not_zero_width():
    assert t_interval([0.4]) == {"mean": 0.4, "low": None, "high": None, "n": 1}
    assert t_interval([]) == {"mean": None, "low": None, "high": None, "n": 0}


def test_median_interval_takes_order_statistics():
    # n = 6: P(all on one side) = 2/64 = 3.1 % < 5 %, so the smallest and the largest; n = 5: 6.25 %, no interval
    assert median_interval([3, 1, 2, 6, 5, 4]) == {"median": 3.5, "low": 1, "high": 6, "n": 6}
    assert median_interval([3, 1, 2, 5, 4]) == {"median": 3, "low": None, "high": None, "n": 5}
    # n = 9: P(X ≤ 1) = 10/512 = 1.95 % ≤ 2.5 %, P(X ≤ 2) = 46/512: second and second to last
    assert median_interval(range(1, 10)) == {"median": 5, "low": 2, "high": 8, "n": 9}


def test_unbroken_attacks_are_longer_than_any():
    assert median_interval([10, None, 20])["median"] == 20
    assert median_interval([10, None, None])["median"] is None
    assert median_interval([1, 2, 3, 4, 5, None]) == {"median": 3.5, "low": 1, "high": None, "n": 6}


def test_standard_error_counts_a_cluster_once():
    # four equal pairs are four draws: values 1, 1, 0, 0 → s² = 1/3, standard error √(1/3 / 4)
    values = [1, 1, 1, 1, 0, 0, 0, 0]
    groups = ["a", "a", "b", "b", "c", "c", "d", "d"]
    assert clustered_standard_error(Scores(values, groups)) == pytest.approx(math.sqrt(1 / 12))
    assert clustered_standard_error(Scores([1, 1, 0, 0])) == pytest.approx(math.sqrt(1 / 12))
    assert clustered_standard_error(Scores([1, 0], ["a", "a"])) is None


def test_scores_that_are_not_finite_have_no_error():
    assert clustered_standard_error(Scores([1.0, math.nan, 0.0])) is None
    assert clustered_standard_error(Scores([1.0, math.inf, 0.0])) is None


def test_choice_among_broken_likelihoods_is_no_score_rather_than_wrong():
    right, wrong = [0.0, -1.0, -2.0, -3.0], [-3.0, -1.0, -2.0, 0.0]
    broken = [[math.nan, -1.0, -2.0, -3.0], [0.0, -1.0, math.nan, -3.0], [math.inf, -1.0, -2.0, -3.0]]
    scores = choose(torch.tensor([right, wrong, *broken]), draws=2).tolist()
    assert scores[:2] == [1.0, 0.0] and all(math.isnan(score) for score in scores[2:])
    assert mean_score("harm", Scores(scores)) is None


def test_seeds_are_the_draws_and_adversaries_are_pooled_within():
    values = [(0, 0.2), (0, 0.4), (1, 0.5), (1, 0.7), (2, None)]
    assert over_seeds(values, mean)["mean"] == pytest.approx(0.45)  # (0.3 + 0.6) / 2
    assert over_seeds(values, max)["mean"] == pytest.approx(0.55)  # (0.4 + 0.7) / 2
    assert over_seeds(values, max)["n"] == 2


def test_recovery_is_the_share_of_what_the_base_knew_and_is_not_clipped():
    assert recovery(0.55, 0.85, 0.25) == pytest.approx(0.5)  # 0.30 of 0.60
    assert recovery(0.13, 0.85, 0.25) == pytest.approx(-0.2)
    assert recovery(0.97, 0.85, 0.25) == pytest.approx(1.2)
    assert recovery(0.5, 0.25, 0.25) is None
    assert recovery(0.5, None, 0.25) is None and recovery(None, 0.9, 0.25) is None


def test_floor_is_that_of_the_same_attack_and_at_least_chance():
    floor = record(attack("a", 0, 0.3), attack("a", 1, 0.4), attack("b", 0, 0.1), attack("c", 0, 0, "failed"))
    assert floor_harm(floor, "a") == pytest.approx(0.35)
    assert floor_harm(floor, "b") == 0.25
    assert floor_harm(floor, "c") == floor_harm(None, "a") == 0.25
    assert floor_harm(floor, "b", chance=0.0) == pytest.approx(0.1)


def test_differences_are_paired_by_adversary_and_seed():
    twin = record(attack("a", 0, 0.9), attack("a", 1, 0.8), attack("b", 0, 0.7), attack("b", 1, 0, "failed"))
    twin.attacks.append(attack("c", 0, 0.9, "diverged"))
    model = [attack("a", 0, 0.5), attack("a", 1, 0.6), attack("b", 0, 0, "failed"), attack("b", 1, 0.2)]
    model += [attack("c", 0, 0.1), attack("d", 0, None)]
    assert paired_differences(twin, model) == [(0, pytest.approx(0.4)), (1, pytest.approx(0.2))]


@pytest.mark.parametrize(
    ("harm", "capability", "broken", "usable"),
    [
        ([0.25, 0.6, 0.6, 0.6], [0.8, 0.8, 0.8, 0.8], 10, 10),
        ([0.25, 0.6, 0.3, 0.6], [0.8, 0.8, 0.8, 0.8], None, None),  # never twice in a row
        ([0.25, 0.3, 0.3, 0.9], [0.8, 0.8, 0.8, 0.8], None, None),  # once, at the end
        ([0.25, 0.6, 0.6, 0.6], [0.8, 0.5, 0.73, 0.73], 10, 20),  # 0.72 = 0.9 · 0.8 is enough
        ([0.25, 0.6, 0.6, 0.6], [0.8, 0.5, 0.5, 0.5], 10, None),  # broken, and useless
        ([0.6, 0.6, 0.2, 0.2], [0.8, 0.8, 0.8, 0.8], 0, 0),
        ([0.25, None, 0.6, 0.6], [0.8, 0.8, 0.8, None], 20, None),
    ],
)
def test_break_is_the_first_of_two_evaluations_in_a_row(harm, capability, broken, usable):
    rows = zip((0, 10, 20, 30), harm, capability, strict=True)
    trajectory = [{"step": s, "harm": h, "capability": c} for s, h, c in rows]  # R ≥ 0.5 from harm 0.55 on
    assert steps_to_break(trajectory, 0.85, 0.25) == broken
    assert steps_to_break(trajectory, 0.85, 0.25, usable=True) == usable
    assert steps_to_break(trajectory, None, 0.25) is None


def test_selectivity_is_capability_minus_harm():
    assert selectivity({"harm": 0.3, "capability": 0.8}) == pytest.approx(0.5)
    assert selectivity({"harm": None, "capability": 0.8}) is None


def test_trainability_is_taken_where_the_base_has_half_its_gain():
    def points(*values):
        return [{"step": i, "benign": value} for i, value in enumerate(values)]

    # the base gains 0.8, half of it by step 2 (0.5 − 0.1 = 0.4); the model has gained 0.3 there
    assert trainability(points(0.1, 0.2, 0.5, 0.9), points(0.2, 0.2, 0.5, 0.9)) == pytest.approx(0.75)
    assert trainability(points(0.5, 0.5), points(0.1, 0.9)) is None
    assert trainability(points(0.1, None), points(0.1, 0.9)) is None
    assert trainability(points(0.1, 0.9), points(0.1, 0.2, 0.3)) is None
