"""Weights beside θ, and back."""

import pytest
import torch
from support import tiny

from trl_tar.simulation.displaced import displaced, stepped


def parameters(*values):
    return [torch.nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in values]


def test_weights_are_moved_inside_and_bitwise_back_after_an_error():
    model = tiny.llama()
    start, trained = tiny.weights(model), list(model.parameters())
    direction = [torch.randn_like(p) for p in trained]
    with pytest.raises(KeyError), displaced(trained, iter(direction), 0.3):
        for name, p, d in zip(start, trained, direction, strict=True):
            assert torch.equal(p, torch.add(start[name], d, alpha=0.3))
        model(torch.tensor([[5, 6]])).logits.sum().backward()
        raise KeyError
    assert all(torch.equal(p, start[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize(("normalised", "expected"), [(True, [[0.4], [1.2]]), (False, [[-2.0], [-2.0]])])
def test_a_step_goes_against_the_gradient_by_the_norm_of_all_of_it(normalised, expected):
    trained = parameters([1.0], [2.0])
    gradient = [torch.tensor([3.0]).double(), torch.tensor([4.0]).double()]
    with stepped(trained, gradient, 1.0, normalised):
        assert [p.tolist() for p in trained] == [pytest.approx(value) for value in expected]
    with stepped(trained, [torch.zeros_like(p) for p in trained], 1.0, normalised):
        assert [p.tolist() for p in trained] == [[1.0], [2.0]]
