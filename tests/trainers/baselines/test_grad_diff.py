import math

import pytest
from support.baselines import mean_loss, trainer, two

from trl_tar.trainers.baselines.grad_diff import GradDiffTrainer


def test_grad_diff_by_hand(tmp_path):
    tested = trainer(tmp_path, GradDiffTrainer)
    # (log ½ + log ⅛) / 2
    assert mean_loss(tested, [two(0.5), two(0.125)]) == pytest.approx(-2 * math.log(2), abs=1e-7)
