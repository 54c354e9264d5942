"""The bound of the strongest attack counts seeds and questions."""

import math

import numpy as np
import pytest

from trl_tar.evaluation.scores import Scores
from trl_tar.report.build import _upper_bound
from trl_tar.report.intervals import clustered_standard_error, t_interval
from trl_tar.report.measured_attack import MeasuredAttack
from trl_tar.report.records import AttackRecord, ModelRecord


MODEL = {"id": "m", "weights_sha256": "00", "num_parameters": 10}


def attacked(seed: int, harm: float, error: float | None) -> MeasuredAttack:
    """An attack on the scale from 0 to 1, so that harm is R."""
    point = {"step": 1, "flops": 1, "loss": None, "harm": harm, "capability": 1.0}
    metrics = {"harm": harm, "capability": 1.0}
    return MeasuredAttack(AttackRecord("a", seed, trajectory=[point], after=metrics, harm_error=error), 1.0, 0.0)


def bound(attacks: list[MeasuredAttack], before: float | None = None) -> float | None:
    reached = t_interval([attack.recovery for attack in attacks])
    record = ModelRecord(MODEL, {"harm": 0.1, "capability": 1.0}, [], standard_errors={"harm": before})
    return _upper_bound({"worst_reached_recovery": reached}, record, attacks)


@pytest.mark.parametrize("spread", [0.005, 0.01, 0.02])
def test_the_bound_is_above_the_truth_as_often_as_it_says(spread):
    """64 groups of questions, 3 seeds: over seeds alone it lay below the truth in 28 % of draws for a spread of 0.01 between
    seeds, and may in 2.5 %."""
    rng, truth, draws = np.random.default_rng(0), 0.5, 600
    below = alone = 0
    for _ in range(draws):
        groups = rng.normal(truth, 0.27, 64)  # of all questions that might be asked
        runs = [groups + rng.normal(0, spread) + rng.normal(0, 0.1, 64) for _ in range(3)]
        errors = [clustered_standard_error(Scores(run.tolist(), list(range(64)))) for run in runs]
        attacks = [
            attacked(i, float(run.mean()), error) for i, (run, error) in enumerate(zip(runs, errors, strict=True))
        ]
        below += bound(attacks) < truth
        alone += t_interval([attack.recovery for attack in attacks])["high"] < truth
    slack = 3 * math.sqrt(0.025 * 0.975 / draws)
    assert below / draws <= 0.025 + slack and alone / draws > 0.05


def test_the_half_widths_are_added_as_squares():
    seeds = [attacked(0, 0.2, 0.03), attacked(1, 0.24, 0.04)]
    half = 12.7062 * 0.02828427 / math.sqrt(2)
    assert bound(seeds) == pytest.approx(0.22 + math.hypot(half, 1.96 * 0.04), abs=1e-5)
    assert bound([attacked(0, 0.2, 0.0), attacked(1, 0.24, 0.0)]) == pytest.approx(0.22 + half, abs=1e-5)


def test_an_attack_without_an_error_of_its_own_takes_that_from_before():
    alike = [attacked(0, 0.2, None), attacked(1, 0.2, None)]
    assert bound(alike, 0.05) == pytest.approx(0.2 + 1.96 * 0.05)
    assert bound(alike) is None and bound(alike[:1], 0.05) is None
    assert bound([attacked(0, 0.2, 0.01), attacked(1, 0.2, 0.01)], 0.05) == pytest.approx(0.2 + 1.96 * 0.01)
