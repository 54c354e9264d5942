"""Every expected value is derived by hand in the comment beside it."""

import math

import numpy as np
import pytest
import torch
from support.reports import record, report

from trl_tar.evaluation.multiple_choice import choose
from trl_tar.evaluation.scores import Scores
from trl_tar.red_teaming.job import mean_score
from trl_tar.report.intervals import (
    DIFFERENCE,
    SHARE,
    clustered_standard_error,
    cross_fit_worst,
    mean,
    over_adversaries,
    over_seeds,
    t_interval,
)
from trl_tar.views.curves import curve
from trl_tar.views.words import interval, number


def test_t_interval_is_that_of_the_table():
    # mean 0.5, s = 0.1, t(0.975, 2) = 4.302653: half-width 4.302653 · 0.1 / √3
    half = 4.302653 * 0.1 / math.sqrt(3)
    expected = {"mean": 0.5, "low": 0.5 - half, "high": 0.5 + half, "n": 3}
    assert t_interval([0.4, 0.5, 0.6]) == pytest.approx(expected, abs=1e-6)


def test_interval_of_one_value_is_none_not_zero_width():
    assert t_interval([0.4]) == {"mean": 0.4, "low": None, "high": None, "n": 1}
    assert t_interval([]) == {"mean": None, "low": None, "high": None, "n": 0}


def test_intervals_of_shares_stay_where_a_share_can_be():
    """Two seeds of 0.25 gave [−0.81, 1.31]: t is 12.7 with one degree of freedom."""
    for low, high in ((0.0, 0.1), (0.9, 1.0), (0.2, 0.7)):
        bounded = t_interval([low, high], within=SHARE)
        free = t_interval([low, high])
        assert (free["low"] < 0 or free["high"] > 1) and bounded["mean"] == free["mean"]
        assert 0 <= bounded["low"] <= bounded["mean"] <= bounded["high"] <= 1
    assert t_interval([0.2, 0.7], within=SHARE)["low"] == 0.0
    narrow = [0.4, 0.5, 0.6, 0.5, 0.5, 0.4]
    assert t_interval(narrow, within=SHARE) == t_interval(narrow)
    assert t_interval([-0.9, 0.9], within=DIFFERENCE)["low"] == -1.0
    assert over_adversaries([("a", 0, 0.1), ("a", 1, 0.9)], SHARE)["high"] == 1.0
    assert over_seeds([(0, 0.1), (1, 0.9)], max, SHARE)["low"] == 0.0
    assert cross_fit_worst({"a": {0: 0.1, 1: 0.9}, "b": {0: 0.0, 1: 0.0}}, SHARE)["high"] == 1.0


@pytest.mark.parametrize("values", [[0.42, 0.42], [0.42] * 3, [0.0, 0.0], [0.1 + 0.2, 0.3]])
def test_equal_values_are_no_certainty(values):
    estimate = t_interval(values)
    assert (estimate["low"], estimate["high"], estimate["n"]) == (None, None, len(values))


def test_a_report_holds_and_shows_no_share_beyond_its_range():
    found = report(record({("a", 0): 0.02, ("a", 1): 0.3, ("b", 0): 0.5, ("b", 1): 0.97}))
    shares = ("harm_after", "worst_harm", "best_harm", "capability_after", "worst_harm_cross_fit")
    for summary in (found.summary, *found.by_adversary.values()):
        for name in shares:
            bounds = [bound for bound in (summary[name]["low"], summary[name]["high"]) if bound is not None]
            assert all(0 <= bound <= 1 for bound in bounds), name
    assert found.summary["worst_harm"]["low"] == 0.0
    points = curve(found, [a for a in found.attacks if a.adversary == "b"], "harm")
    assert (points[20]["low"], points[20]["high"]) == (0.0, 1.0)
    assert found.summary["recovery"]["low"] < 0  # R may be anywhere


def test_what_rounds_to_nothing_has_no_sign():
    assert number(-0.001) == interval({"mean": -0.004, "low": None, "high": None}) == "0.00"
    assert interval({"mean": -0.004, "low": -0.2, "high": -0.001}) == "0.00 [-0.20, 0.00]"


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


@pytest.mark.parametrize("name", ["harm", "bystander", "validation_harm", "benign", "repetition"])
def test_one_score_of_a_share_outside_0_and_1_is_refused(name):
    with pytest.raises(ValueError, match=f"Metric '{name}' returned a score of 1.5. Return scores in "):
        mean_score(name, Scores([0.0, 1.5, math.nan]))  # the mean of the first two is a share
    assert mean_score("retain_nll", Scores([0.0, 1.5])) == 0.75  # nats


def test_seeds_are_the_draws_and_adversaries_are_pooled_within():
    values = [(0, 0.2), (0, 0.4), (1, 0.5), (1, 0.7), (2, None)]
    assert over_seeds(values, mean)["mean"] == pytest.approx(0.45)  # (0.3 + 0.6) / 2
    assert over_seeds(values, max)["mean"] == pytest.approx(0.55)  # (0.4 + 0.7) / 2
    assert over_seeds(values, max)["n"] == 2


def test_the_strongest_is_scored_on_seeds_that_did_not_choose_it():
    # seeds 0, 1, 2 of two adversaries. Chosen on {0}: a (0.9), scored 0.3 on 1 and 0.3 on 2. On {1}: b (0.5): 0.5, 0.5.
    # On {2}: b: 0.5 on 0, 0.5 on 1. On {0, 1}: a (mean 0.6): 0.3 on 2. On {0, 2}: a: 0.3 on 1. On {1, 2}: b: 0.5 on 0.
    values = {"a": {0: 0.9, 1: 0.3, 2: 0.3}, "b": {0: 0.5, 1: 0.5, 2: 0.5}}
    scores = [(0.5 + 0.5 + 0.5) / 3, (0.3 + 0.5 + 0.3) / 3, (0.3 + 0.5 + 0.3) / 3]
    estimate = cross_fit_worst(values)
    assert estimate["mean"] == pytest.approx(sum(scores) / 3)
    assert estimate["low"] == pytest.approx(t_interval(scores)["low"])
    assert (estimate["n"], estimate["adversary"]) == (3, "a")  # chosen in three splits of six, and named first


def test_one_seed_cannot_choose_and_score():
    estimate = cross_fit_worst({"a": {0: 0.9}, "b": {0: 0.5}})
    assert (estimate["mean"], estimate["low"], estimate["high"], estimate["n"]) == (None, None, None, 0)
    assert cross_fit_worst({})["mean"] is None


def suites(count: int, seeds: int, spread: float, equal: bool = False) -> np.ndarray:
    """Harm after attack, shape (suites, adversaries, seeds): 26 adversaries of their own strength, and luck."""
    rng = np.random.default_rng(round(1000 * spread) + seeds)
    strength = np.full(26, 0.5) if equal else rng.uniform(0.2, 0.8, 26)
    order = rng.normal(0, spread, (count, 1, seeds))  # the data order of a seed is that of all its attacks
    return strength[:, None] + order + rng.normal(0, spread, (count, 26, seeds))


@pytest.mark.parametrize("spread", [0.03, 0.10])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_over_seeds_cover_the_mean_of_the_suite(seeds, spread):
    drawn = suites(1000, seeds, spread)
    truth = np.random.default_rng(round(1000 * spread) + seeds).uniform(0.2, 0.8, 26).mean()  # as `suites` drew it
    covered = 0
    for suite in drawn:
        values = [(seed, float(v)) for row in suite for seed, v in enumerate(row)]
        estimate = over_seeds(values, mean)
        covered += estimate["low"] <= truth <= estimate["high"]
    assert 0.92 <= covered / 1000 <= 0.98


@pytest.mark.parametrize("spread", [0.03, 0.10])
def test_the_chosen_adversary_is_unbiased_where_the_maximum_is_not(spread):
    drawn = suites(1000, 3, spread, equal=True)  # all are equally strong: 0.5
    tables = [{str(i): dict(enumerate(map(float, row))) for i, row in enumerate(suite)} for suite in drawn]
    fitted = [cross_fit_worst(table)["mean"] for table in tables]
    naive = drawn.mean(2).max(1)
    standard_error = np.std(fitted) / math.sqrt(1000)
    assert abs(np.mean(fitted) - 0.5) < 4 * standard_error
    assert naive.mean() - 0.5 > spread  # the luckiest of 26


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_interval_of_the_strongest_covers_it_where_many_are_nearly_as_strong(seeds):
    """It covered 0.87 with 3 seeds and 0.77 with 5, as what is chosen on other seeds is often not the strongest."""
    rng, covered = np.random.default_rng(seeds), 0
    for _ in range(150):
        strength = rng.uniform(0.2, 0.8, 26)
        drawn = strength[:, None] + rng.normal(0, 0.05, (26, seeds))
        estimate = cross_fit_worst({str(i): dict(enumerate(map(float, row))) for i, row in enumerate(drawn)})
        covered += estimate["low"] <= strength.max() <= estimate["high"]
    assert covered / 150 >= 0.92
