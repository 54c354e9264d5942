"""The optimizer of an attack."""

import pytest
import torch

from trl_tar import Adversary
from trl_tar.adversaries.choices import OPTIMIZERS
from trl_tar.optim.attack_optimizers import optimizer_class_and_arguments


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_row_of_the_optimizers_has_its_case(name):
    if OPTIMIZERS[name].package is not None:
        pytest.importorskip(OPTIMIZERS[name].package.name)
    kind, arguments = optimizer_class_and_arguments(Adversary("a", "forget", optimizer=name, learning_rate=1e-3))
    optimizer = kind([torch.nn.Parameter(torch.zeros(2))], **arguments)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert optimizer.param_groups[0]["lr"] == 1e-3
