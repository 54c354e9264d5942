import math

import pytest
import torch
from support import tiny
from support.baselines import trainer

from trl_tar.models.layer_logits import final_norm
from trl_tar.trainers.baselines.rep_noise import RepNoiseTrainer, noise_distance, spread


ALL = {"noise_weight": 1.0, "noise_tokens": 1000, "ascent_weight": 0.7}


def test_rep_noise_by_hand():
    distance = noise_distance(torch.zeros(1, 1).double(), torch.ones(1, 1).double())
    assert distance.item() == pytest.approx(6.1862764, abs=1e-7)  # 10 − 2 (e^−4 + e^−2 + e^−1 + e^−½ + e^−¼)
    total = 0.5 + 0.001 * distance.item() - math.log(1 + (2 + 2 + 2) / 3)
    assert total == pytest.approx(-0.5924260, abs=1e-7)


def test_tokens_are_chosen_by_the_rows_number_of_them_alone():
    wanted = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0, 0]]).bool()
    for offset in (0.01, 0.3, 0.99):
        chosen = spread(wanted, 3, offset)
        assert chosen.sum(1).tolist() == [3, 2] and not (chosen & ~wanted).any()
        wider = torch.nn.functional.pad(wanted, (0, 5))
        assert torch.equal(spread(wider[:1], 3, offset)[:, :8], chosen[:1])
    assert {tuple(spread(wanted, 1, offset)[0].tolist()) for offset in (0.1, 0.5, 0.9)} != {tuple(chosen[0].tolist())}
    assert torch.equal(spread(wanted, 7, 0.5), wanted)


def test_the_final_norm_is_found():
    for model, norm in (
        (tiny.gpt2(), lambda m: m.transformer.ln_f),
        (tiny.llama(), lambda m: m.model.norm),
        (tiny.gemma(), lambda m: m.model.norm),
    ):
        assert final_norm(model) is norm(model)


def test_a_step_has_the_gradient_of_the_loss_of_the_global_batch(tmp_path):
    """In one pass over single rows, with all their tokens and the same noise."""
    tested = trainer(tmp_path, RepNoiseTrainer, **ALL)
    tested.get_batch_samples(iter(tested.get_train_dataloader()), 1, tested.accelerator.device)
    (batch,) = tested.step_batches[1]
    model, states, losses = tiny.gpt2(), [[], []], []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
        ids, labels = ids[mask.bool()], labels[mask.bool()]
        outputs: list[torch.Tensor] = []
        hooks = [block.mlp.register_forward_hook(lambda *a, o=outputs: o.append(a[2])) for block in model.transformer.h]
        hidden = model(ids[None], output_hidden_states=True).hidden_states
        for hook in hooks:
            hook.remove()
        for kept, output in zip(states, outputs, strict=True):
            kept.append(output[0][labels != -100])
        for state in (model.transformer.ln_f(hidden[0]), model.transformer.ln_f(hidden[1]), hidden[2]):
            log_p = model.lm_head(state[0]).log_softmax(-1)
            losses += [-log_p[t - 1, label] for t, label in enumerate(labels) if t > 0 and label != -100]
    generator = torch.Generator().manual_seed(tested.noise_seed())
    distances = []
    for kept in states:
        vectors = torch.cat(kept)
        noise = torch.randn(vectors.shape, dtype=vectors.dtype, generator=generator)
        distances.append(noise_distance(vectors, noise))
    loss = sum(distances) / 2 - 0.7 * torch.log(1 + torch.stack(losses).mean())
    expected = torch.autograd.grad(loss, list(model.parameters()))

    share = tested.forget_loss(tested.model, batch)
    assert (share / tested.forget_count(batch)).item() == pytest.approx(loss.item(), rel=1e-12)
    found = torch.autograd.grad(share / tested.forget_count(batch), list(tested.model.parameters()), allow_unused=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_weight": -1}, "noise_weight=-1.0. Use a finite number of at least 0"),
        ({"noise_tokens": 0}, "noise_tokens=0. Use at least 1"),
    ],
)
def test_unusable_settings_get_one_sentence(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer(tmp_path, RepNoiseTrainer, **settings)
