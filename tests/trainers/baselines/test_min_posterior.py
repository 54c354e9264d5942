import math

import pytest
from support.baselines import mean_loss, trainer, two

from trl_tar.trainers.baselines.min_posterior import MinPosteriorTrainer


@pytest.mark.parametrize(
    ("threshold", "log_probabilities", "expected"),
    [
        (-15, [math.log(0.9), -20], 1.1512925),  # (log 10 + 0) / 2
        (-15, [-6], 0.0024818),  # −log(1 − e^−6)
        (-5, [-6], 0.0),
    ],
)
def test_min_posterior_by_hand(tmp_path, threshold, log_probabilities, expected):
    tested = trainer(tmp_path, MinPosteriorTrainer, threshold=threshold)
    assert mean_loss(tested, [two(math.exp(p)) for p in log_probabilities]) == pytest.approx(expected, abs=1e-7)


def test_an_unusable_threshold_gets_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="threshold=0.5. Use a finite log-probability below 0"):
        trainer(tmp_path, MinPosteriorTrainer, threshold=0.5)
