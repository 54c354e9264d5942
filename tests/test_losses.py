"""Every loss on a few logits that a reader can check with a pocket calculator, and its gradient at an attacked point."""

import math

import pytest
import torch
from support import tiny

from trl_tar import Adversary, losses
from trl_tar.costs.memory_ledger import Ledger
from trl_tar.losses import (
    dpo_loss,
    inner_weight,
    inverse_cross_entropy_loss,
    kl_divergence_loss,
    language_modeling_loss,
    max_entropy_loss,
    negative_cross_entropy_loss,
    random_mapping_loss,
    representation_loss,
    sequence_log_probs,
)
from trl_tar.simulation.restored import restored


def logits_of(*probabilities: list[list[float]]) -> torch.Tensor:
    """Logits whose softmax are these distributions, shape (B, T, V); a constant is added, which must not matter."""
    return torch.tensor(probabilities, dtype=torch.float64).log() + 3.0


# two rows over three tokens; the last position predicts nothing, and row 2 ends one token earlier (-100 is padding)
LOGITS = logits_of(
    [[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.9, 0.05, 0.05]],
    [[0.25, 0.5, 0.25], [0.8, 0.1, 0.1], [0.9, 0.05, 0.05]],
)
LABELS = torch.tensor([[0, 1, 2], [1, 1, -100]])  # predicted: p = 0.25 and 0.6; then 0.5


def test_cross_entropy_by_hand():
    total, count = language_modeling_loss(LOGITS, LABELS)
    assert count == 3
    assert total.item() == pytest.approx(-(math.log(0.25) + math.log(0.6) + math.log(0.5)), rel=1e-12)


def test_entropy_by_hand():
    total, count = max_entropy_loss(LOGITS, LABELS)
    half = 0.5 * math.log(0.5) + 0.5 * math.log(0.25)
    assert count == 3
    assert total.item() == pytest.approx(2 * half + 0.4 * math.log(0.2) + 0.6 * math.log(0.6), rel=1e-12)


def test_entropy_of_the_uniform_distribution_is_log_v():
    total, count = max_entropy_loss(torch.zeros(2, 5, 29, dtype=torch.float64), torch.ones(2, 5, dtype=torch.long))
    assert (total / count).item() == pytest.approx(-math.log(29), rel=1e-12)


def test_negative_cross_entropy_is_minus_cross_entropy():
    total, count = negative_cross_entropy_loss(LOGITS, LABELS)
    assert count == 3
    assert total == -language_modeling_loss(LOGITS, LABELS)[0]


def test_inverse_cross_entropy_by_hand():
    total, count = inverse_cross_entropy_loss(LOGITS, LABELS)
    assert count == 3
    assert total.item() == pytest.approx(-(math.log(0.75) + math.log(0.4) + math.log(0.5)), rel=1e-12)


def test_inverse_cross_entropy_stays_finite_where_one_minus_p_is_zero():
    logits = torch.tensor([[[200.0, 0.0, 0.0]] * 2], requires_grad=True)  # 1 − p rounds to 0 in float32
    total, _ = inverse_cross_entropy_loss(logits, torch.tensor([[0, 0]]))
    total.backward()
    assert total.item() == pytest.approx(200 - math.log(2), rel=1e-6)
    assert logits.grad.isfinite().all()


def test_sequence_log_probs_by_hand():
    found = sequence_log_probs(LOGITS, LABELS)
    assert found.tolist() == pytest.approx([math.log(0.25) + math.log(0.6), math.log(0.5)], rel=1e-12)


def test_dpo_by_hand():
    # margins (−1 − −2) − (−3 − −2) = 2 and (−1 − −1) − (−5 − −5) = 0
    log_probs = torch.tensor([-1.0, -1.0, -3.0, -5.0], dtype=torch.float64)
    reference = torch.tensor([-2.0, -1.0, -2.0, -5.0], dtype=torch.float64)
    total, count = dpo_loss(log_probs, reference, beta=0.5)
    assert count == 2
    assert total.item() == pytest.approx(math.log(1 + math.exp(-1)) + math.log(2), rel=1e-12)


def summed_log_probs(logits, labels):
    """Rows weigh unequally, as they do in DPO."""
    log_probs = sequence_log_probs(logits, labels)
    return (log_probs * torch.arange(1, len(log_probs) + 1)).sum(), (labels[:, 1:] != -100).sum()


def kl_from_reference(logits, labels):
    return kl_divergence_loss(logits, REFERENCE_LOGITS[logits.dtype], labels)


def kl_at_a_temperature(logits, labels):
    return kl_divergence_loss(logits, REFERENCE_LOGITS[logits.dtype], labels, temperature=2.0)


OF_LOGITS = [
    language_modeling_loss,
    max_entropy_loss,
    inverse_cross_entropy_loss,
    summed_log_probs,
    kl_from_reference,
    kl_at_a_temperature,
]


def many_logits(dtype: torch.dtype, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 33, 1000, dtype=dtype, generator=generator)
    labels = torch.randint(0, 1000, (4, 33), generator=generator)
    labels[:, :7] = labels[2, 20:] = -100
    return logits.requires_grad_(), labels


REFERENCE_LOGITS = {dtype: many_logits(dtype, seed=1)[0].detach() for dtype in (torch.float32, torch.float64)}


@pytest.mark.parametrize("loss", OF_LOGITS)
def test_losses_in_chunks_are_those_of_all_logits_at_once(monkeypatch, loss):
    logits, labels = many_logits(torch.float64)
    expected, expected_count = loss(logits, labels)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    monkeypatch.setattr(losses, "MOST_LOGITS", 2**15)  # four positions at a time, and a rest
    with torch.no_grad():
        logits[:, -1] = logits[2, 25] = torch.nan  # they predict nothing, and must not matter
    found, count = loss(logits, labels)
    (gradient,) = torch.autograd.grad(found, logits)
    assert count == expected_count
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)
    assert (gradient - expected_gradient).abs().max() < 1e-12 * expected_gradient.abs().max()


@pytest.mark.parametrize("loss", OF_LOGITS)
def test_losses_in_chunks_make_no_second_tensor_of_the_logits_size(monkeypatch, loss):
    monkeypatch.setattr(losses, "MOST_LOGITS", 2**14)
    logits, labels = many_logits(torch.float32)
    reference = REFERENCE_LOGITS[torch.float32]
    with Ledger([logits, labels, reference]) as ledger:
        total, _ = loss(logits, labels)
        forward, kept = ledger.peak - reference.nbytes, ledger.live - reference.nbytes
        torch.autograd.grad(total, logits)
    assert forward < 1.2 * logits.nbytes  # the logits, and chunks
    assert kept < 1.05 * logits.nbytes
    assert ledger.peak - reference.nbytes < 2.2 * logits.nbytes  # and the gradient


@pytest.mark.parametrize(("distance", "expected"), [("l2", 5 + 1), ("l2_squared", 25 + 1), ("relative", 0 + 1)])
def test_representation_loss_by_hand(distance, expected):
    # two hidden states of one row with two tokens, the second is padding: ‖(3, 4)‖ and ‖(0, 1)‖ count
    hidden = (torch.tensor([[[3.0, 4.0], [9.0, 9.0]]]), torch.tensor([[[1.0, 1.0], [9.0, 9.0]]]))
    reference = (torch.zeros(1, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    total, count = representation_loss(hidden, reference, torch.tensor([[1, 0]]), distance)
    assert (total.item(), count.item()) == (expected, 2)


@pytest.mark.parametrize("distance", ["l2", "l2_squared", "relative"])
def test_representation_loss_has_no_gradient_where_nothing_moved(distance):
    hidden = torch.ones(1, 2, 3, requires_grad=True)
    total, _ = representation_loss((hidden,), (torch.ones(1, 2, 3),), torch.ones(1, 2), distance)
    total.backward()
    assert total == 0
    assert torch.equal(hidden.grad, torch.zeros(1, 2, 3))


def test_a_relative_distance_is_of_the_reference_s_own_length():
    reference = torch.tensor([[[3.0, 4.0], [0.0, 0.0], [0.0, 0.5]]])
    hidden = torch.tensor([[[3.0, 6.0], [1.0, 1.0], [0.0, 0.5]]], requires_grad=True)
    total, count = representation_loss((hidden,), (reference,), torch.ones(1, 3), "relative")
    assert total.item() == pytest.approx(2 / 5) and count == 3  # nothing is relative to a reference of length 0
    total.backward()
    assert torch.allclose(hidden.grad, torch.tensor([[[0.0, 1 / 5], [0.0, 0.0], [0.0, 0.0]]]))
    scaled, _ = representation_loss((100 * hidden,), (100 * reference,), torch.ones(1, 3), "relative")
    assert scaled.item() == pytest.approx(total.item())


def test_kl_divergence_by_hand():
    """Reference (½, ½), model (¼, ¾): ½ log 2 + ½ log ⅔ at the one position that predicts a label."""
    logits = torch.log(torch.tensor([[[0.25, 0.75], [0.9, 0.1], [0.5, 0.5]]]))
    reference = torch.log(torch.tensor([[[0.5, 0.5], [0.1, 0.9], [0.2, 0.8]]]))
    total, count = kl_divergence_loss(logits, reference, torch.tensor([[0, 1, -100]]))
    assert count == 1
    assert total.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3), rel=1e-6)


def test_kl_divergence_at_a_temperature_by_hand():
    """At T = 2 odds of 9 to 1 are 3 to 1, and 1 to 1 stays: 4 (¾ log ¾/½ + ¼ log ¼/½)."""
    logits = torch.log(torch.tensor([[[0.5, 0.5], [0.5, 0.5]]]))
    reference = torch.log(torch.tensor([[[0.9, 0.1], [0.5, 0.5]]]))
    total, _ = kl_divergence_loss(logits, reference, torch.tensor([[0, 1]]), temperature=2.0)
    assert total.item() == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-6)


def test_a_temperature_tells_margins_that_kl_alone_does_not():
    """17 and 12 nats above 599 other tokens: both all but certain at T = 1, and 0.10 and 0.03 at T = 4."""
    certain, less = torch.zeros(2, 1, 2, 600).unbind()
    certain[..., 0], less[..., 0] = 17.0, 12.0
    labels = torch.tensor([[0, 0]])
    at_1, at_4 = (kl_divergence_loss(less, certain, labels, temperature)[0].item() for temperature in (1.0, 4.0))
    assert at_1 < 0.01 and at_4 > 0.5


def test_kl_divergence_is_0_at_the_reference_and_in_float32_at_least():
    logits, labels = many_logits(torch.float32)
    total, _ = kl_divergence_loss(logits, logits.detach(), labels)
    (gradient,) = torch.autograd.grad(total, logits)
    assert total == 0 and gradient.abs().max() < 1e-6
    rounded = logits.detach().bfloat16()
    found, _ = kl_divergence_loss(rounded, REFERENCE_LOGITS[torch.float32].bfloat16(), labels)
    expected, _ = kl_divergence_loss(rounded.float(), REFERENCE_LOGITS[torch.float32].bfloat16().float(), labels)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize(("signed", "expected"), [(False, (1 - 0.6) + (1 - 0.8)), (True, (1 - 0.6) + (1 + 0.8))])
def test_random_mapping_loss_by_hand(signed, expected):
    hidden = (torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]), torch.tensor([[[-4.0, 3.0], [0.0, 0.0]]]))
    target = torch.tensor([[[2.0, 0.0], [1.0, 1.0]]])  # cosines 3/5 and −4/5; the second token is padding
    total, count = random_mapping_loss(hidden, target, torch.tensor([[1, 0]]), signed)
    assert count == 2
    assert total.item() == pytest.approx(expected, rel=1e-6)


def test_exponential_weights_of_the_released_runs_sum_to_4_438():
    weights = [inner_weight(k, 64, 4, "exponential", 1 / 16) for k in range(3, 64, 4)]
    assert len(weights) == 16
    assert weights[-1] == 1.0
    assert weights[0] == pytest.approx(math.exp(-60 / 16), rel=1e-12)
    assert sum(weights) == pytest.approx(4.438, abs=5e-4)
    assert 4 * sum(weights) == pytest.approx(17.75, abs=5e-3)


@pytest.mark.parametrize(("num_steps", "interval"), [(64, 4), (6, 4), (5, 1), (9, 2)])
def test_uniform_weights_sum_to_one(num_steps, interval):
    weights = [
        inner_weight(k, num_steps, interval, "uniform", 1 / 16) for k in range(interval - 1, num_steps, interval)
    ]
    assert sum(weights) == pytest.approx(1.0, rel=1e-12)


def test_weight_of_no_attack_is_one():
    assert inner_weight(-1, 0, 4, "uniform", 1 / 16) == inner_weight(-1, 0, 4, "exponential", 1 / 16) == 1.0


@pytest.mark.parametrize("loss", ["entropy", "dpo", "negative_cross_entropy", "inverse_cross_entropy"])
@pytest.mark.parametrize("lora_r", [None, 2], ids=["full", "lora"])
def test_gradient_at_the_attacked_point_equals_finite_differences(make_trainer, loss, lora_r):
    # long enough for a cross-entropy below the clamp, where the gradient would be zero
    adversary = Adversary("a", "retain", lora_r=lora_r, learning_rate=0.05, num_steps=12, batch_size=4)
    settings = {"tamper_resistance_loss": loss, "tamper_resistance_weight": 1.0, "inner_weighting": "uniform"}
    if loss == "negative_cross_entropy":
        settings["tamper_resistance_dataset"] = tiny.Dataset.from_list(tiny.tokenised()["retain"])
    trainer = make_trainer(adversaries=[adversary], tamper_resistance_interval=12, **settings)
    if loss == "dpo":
        trainer.add_reference_to_pairs()
    parameters = trainer.outer_gradient.parameters
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    attacker = trainer.pool.attacker(0, adversary, f"{trainer.args.seed} attack 0 0")
    (term,) = terms = trainer.outer_terms(attacker, 0)
    with restored(trainer.model, adversary, seed=0) as attacked:
        for step in trainer.attack_steps(attacked, attacker):
            trainer.outer_gradient.tamper_resistance.clear()
            trainer.add_outer_gradient(attacked, attacker, terms, step)
            gradient = [g.clone() for g in trainer.outer_gradient.tamper_resistance]

            def loss_at(shift: float) -> float:
                with torch.no_grad():
                    for p, d in zip(parameters, direction, strict=True):
                        p.add_(d, alpha=shift)
                    total, count = term.loss(attacked.model, term.batches[0])
                    for p, d in zip(parameters, direction, strict=True):
                        p.sub_(d, alpha=shift)
                return (total / count).item()

            h = 1e-5
            difference = (loss_at(h) - loss_at(-h)) / (2 * h)
    derivative = sum((g * d).sum() for g, d in zip(gradient, direction, strict=True)).item()
    assert derivative != 0
    assert derivative == pytest.approx(difference, rel=1e-6)
