"""Weights that are held in bfloat16: attacks and outer steps go as far as in float32, and nothing else changes."""

import pytest
import schedulefree
import torch
from support import tiny
from support.rounding import ENOUGH, displacement, generator, share

from trl_tar import Adversary
from trl_tar.costs.cost import Cost
from trl_tar.costs.memory_ledger import Ledger, measure_memory
from trl_tar.costs.timing import load_model, trainer_for
from trl_tar.optim.stochastic_rounding import step_in_float32, stochastically_rounded
from trl_tar.simulation import attack_steps as simulation
from trl_tar.trainers.outer_gradient import OuterGradient


def test_a_value_is_rounded_to_one_of_its_neighbours_and_is_right_on_average():
    value = torch.tensor([1.0 + 2**-9, -3.1, 1e-30, 0.0, 2.5])
    rounded = torch.stack([stochastically_rounded(value, generator(i)) for i in range(4000)]).double()
    below = (value.view(torch.int32) >> 16 << 16).view(torch.float32)  # towards zero
    above = ((value.view(torch.int32) >> 16) + 1 << 16).view(torch.float32)
    for i in range(3):
        assert set(rounded[:, i].tolist()) == {below[i].item(), above[i].item()}
    assert (rounded[:, 3:] == value[3:]).all()  # what bfloat16 has stays
    spacing = (above - below).abs().double()
    assert ((rounded.mean(0) - value.double()).abs()[:3] < 0.04 * spacing[:3]).all()  # 5 standard errors


def test_what_is_not_finite_stays_so():
    value = torch.tensor([float("inf"), float("-inf"), float("nan")])
    rounded = stochastically_rounded(value, generator())
    assert rounded.dtype == torch.bfloat16
    assert rounded[0] == float("inf") and rounded[1] == float("-inf") and rounded[2].isnan()


def test_a_parameter_stays_what_the_hooks_of_its_gradient_know():
    """Of another type for a moment, it would lose those that sum over devices."""
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    seen = []
    p.register_post_accumulate_grad_hook(lambda p: None)
    accumulator = p.expand_as(p).grad_fn.next_functions[0][0]
    accumulator.register_hook(lambda *_: seen.append(1))
    optimizer = torch.optim.AdamW([p], lr=0.1)
    step_in_float32(optimizer, generator())
    for _ in range(2):
        p.sum().backward()
        optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    p.sum().backward()
    assert len(seen) == 3
    assert list(optimizer.state) == [p] and optimizer.param_groups[0]["params"] == [p]
    assert optimizer.state[p]["exp_avg"].dtype == torch.float32


@pytest.mark.parametrize("in_backward", [False, True])
def test_an_attack_goes_as_far_as_in_float32(in_backward):
    expected = displacement(torch.float32)
    assert ENOUGH < share(displacement(torch.bfloat16, in_backward), expected) < 2 - ENOUGH


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_attack_with_an_8bit_optimizer_goes_as_far(dtype, in_backward):
    expected = displacement(torch.float32)
    found = displacement(dtype, in_backward, "adamw_8bit")
    assert ENOUGH < share(found, expected) < 2 - ENOUGH
    if dtype == torch.float32:  # and to the same place
        assert (found - expected).norm() < 0.08 * expected.norm()
    assert not torch.equal(found, displacement(dtype, in_backward))


def test_rounded_to_nearest_it_would_go_next_to_nowhere(monkeypatch):
    monkeypatch.setattr(simulation, "step_in_float32", lambda *args: None)
    assert share(displacement.__wrapped__(torch.bfloat16), displacement(torch.float32)) < 0.1


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch", "schedule_free_adamw"])
def test_an_outer_optimizer_goes_as_far_as_in_float32(optim):
    def final(dtype):
        p = torch.nn.Parameter(torch.linspace(0.01, 0.1, 200_000).to(torch.bfloat16).to(dtype))
        start = p.detach().double()
        made = {
            "sgd": lambda: torch.optim.SGD([p], lr=1e-5),
            "adamw_torch": lambda: torch.optim.AdamW([p], lr=1e-5, weight_decay=0),
            "schedule_free_adamw": lambda: schedulefree.AdamWScheduleFree([p], lr=1e-5),
        }
        optimizer = made[optim]()
        step_in_float32(optimizer, generator())
        for step in range(32):
            if optim == "schedule_free_adamw":
                optimizer.train()
            p.grad = (torch.ones_like(p) * (1 + step % 3)).to(dtype)
            optimizer.step()
            assert p.dtype == p.grad.dtype == dtype
        assert all(v.dtype == torch.float32 for v in optimizer.state[p].values() if torch.is_tensor(v))
        moved = p.detach().double() - start
        if optim == "schedule_free_adamw":
            optimizer.eval()  # x, rounded once to nearest
            assert p.dtype == dtype
        return moved

    assert ENOUGH < share(final(torch.bfloat16), final(torch.float32)) < 2 - ENOUGH


def trained(make_trainer, dtype=torch.bfloat16, **settings) -> dict[str, torch.Tensor]:
    """Weights after a training from weights that bfloat16 has."""
    model = tiny.gpt2(dtype=torch.bfloat16).to(dtype)
    trainer = make_trainer(model, bf16=True, optim="schedule_free_adamw", learning_rate=0.01, **settings)
    trainer.train()
    return tiny.weights(trainer.model)


@pytest.mark.parametrize("attack", [{}, {"lora_r": 2}], ids=["full", "lora"])
@pytest.mark.parametrize("loss", ["entropy", "dpo"])
def test_training_moves_weights_in_bfloat16_as_in_float32(make_trainer, loss, attack):
    settings = {
        "adversaries": [Adversary("a", "forget", **tiny.ATTACK, **attack)],
        "tamper_resistance_loss": loss,
        "adversaries_per_step": 2,
    }
    start = tiny.weights(tiny.gpt2(dtype=torch.bfloat16))
    moved, expected = (
        torch.cat([(w.double() - start[name].double()).flatten() for name, w in weights.items()])
        for weights in (trained(make_trainer, dtype, **settings) for dtype in (torch.bfloat16, torch.float32))
    )
    assert 0.9 < share(moved, expected) < 1.1  # three steps of a model of two thousand weights


def test_offloading_changes_no_bit(make_trainer):
    plain, offloaded = trained(make_trainer), trained(make_trainer, offload=True)
    assert all(torch.equal(plain[name], offloaded[name]) for name in plain)


@pytest.mark.parametrize(
    ("attack", "mode", "expected"),
    [
        (None, {}, 30),  # weights, snapshot, reference and two gradients 2 each, L_TR's 4, AdamW 8, outer optimizer 8
        (None, {"offload": True}, 16),
        (None, {"offload": True, "optimizer_in_backward": True}, 14),
        (1, {"offload": True, "optimizer_in_backward": True}, 6),
    ],
)
def test_a_device_holds_half_of_the_weights(tmp_path, attack, mode, expected):
    model, tokenizer = load_model("world")
    model.to(torch.bfloat16)
    count = model.num_parameters()
    cost = Cost(4, 16, num_steps=4, interval=2, lora_r=attack)
    trainer = trainer_for(model, tokenizer, cost, 2, tmp_path, bf16=True, optim="schedule_free_adamw", **mode)
    kinds, _ = measure_memory(trainer)
    device = sum(kind["device"] for kind in kinds.values()) / count
    assert expected <= device < expected + 0.5


def test_the_gradient_of_the_tamper_resistance_loss_is_not_kept_beside_that_of_the_step(make_trainer, monkeypatch):
    added = []
    original = OuterGradient.set

    def watched(gradient, *args):
        with Ledger([*gradient.parameters, *gradient.retain, *gradient.tamper_resistance]) as ledger:
            before = ledger.live
            log = original(gradient, *args)
        added.append(ledger.peak - before)
        return log

    monkeypatch.setattr(OuterGradient, "set", watched)
    model = load_model("world")[0].to(torch.bfloat16)
    count, largest = model.num_parameters(), max(p.numel() for p in model.parameters())
    make_trainer(model, bf16=True, optim="schedule_free_adamw", max_steps=1).train()
    # of the largest matrix 4 bytes of the retain gradient and 2 of the sum; a sum of all beside all would be more
    assert len(added) == 1 and 0 < added[0] < 7 * largest < 2 * count


REFUSED = {
    "pure": ({"bf16": False}, "is torch.bfloat16 and TARConfig has bf16=False"),
    "schedule-free": (
        {
            "bf16": True,
            "adversaries": [Adversary("a", "forget", optimizer="schedule_free_adamw", **tiny.ATTACK)],
        },
        "'a' has optimizer='schedule_free_adamw', and parameter 'transformer.wte.weight' is torch.bfloat16",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_round_to_nearest_is_refused(make_trainer, case):
    settings, sentence = REFUSED[case]
    with pytest.raises(ValueError, match=sentence):
        make_trainer(tiny.gpt2(dtype=torch.bfloat16), **settings)
