import math

import pytest
from support.baselines import mean_loss, trainer, two

from trl_tar.trainers.baselines.sim_npo import SimNPOTrainer


@pytest.mark.parametrize(
    ("gamma", "log_probabilities", "expected"),
    [
        (0.0, [-2, -2, -2, -2], 0.0053723),  # 0.8 log(1 + e^−5)
        (0.5, [-1, -3, -1, -3], 0.0088382),  # 0.8 log(1 + e^−4.5)
    ],
)
def test_sim_npo_by_hand(tmp_path, gamma, log_probabilities, expected):
    tested = trainer(tmp_path, SimNPOTrainer, gamma=gamma)
    assert mean_loss(tested, [two(math.exp(p)) for p in log_probabilities]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0}, "beta=0.0. Use a finite number above 0"),
        ({"gamma": -1}, "gamma=-1.0. Use a finite number of at least 0"),
    ],
)
def test_unusable_settings_get_one_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, SimNPOTrainer, **settings)
