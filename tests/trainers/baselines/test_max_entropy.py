import pytest
from support.baselines import mean_loss, trainer

from trl_tar.trainers.baselines.max_entropy import MaxEntropyTrainer


def test_max_entropy_by_hand(tmp_path):
    tested = trainer(tmp_path, MaxEntropyTrainer)
    # ½ log ½ + 2 · ¼ log ¼
    assert mean_loss(tested, [[0.5, 0.25, 0.25]]) == pytest.approx(-1.0397208, abs=1e-7)
