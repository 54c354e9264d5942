"""Mistakes that are easy to make in TAR, planted one by one: the comparison with the reference notices each of them."""

import contextlib
import math
from dataclasses import replace

import pytest
import torch
from support.exactness import EXACT, FULL, LORA, errors_of_outer_steps

from trl_tar import Adversary, TARTrainer, losses
from trl_tar.losses import (
    TAMPER_RESISTANCE_LOSSES,
    kl_divergence_loss,
    language_modeling_loss,
    max_entropy_loss,
    representation_loss,
)
from trl_tar.optim import attack_optimizers
from trl_tar.simulation import attack_steps as simulation
from trl_tar.simulation import restored
from trl_tar.trainers import outer_gradient, tar_trainer
from trl_tar.trainers.outer_gradient import OuterGradient


MICRO_BATCHES = Adversary("micro-batches", "forget", batch_size=4, micro_batch_size=3, num_steps=4, learning_rate=0.02)
SMALL_ALPHA = Adversary("small-alpha", "forget", lora_r=2, lora_alpha=1, batch_size=4, num_steps=4, learning_rate=0.02)


class Planting:
    """Replaces functions as `monkeypatch` does, and remembers which of the replacements were called."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.called: dict[str, bool] = {}

    def setattr(self, owner, name, replacement, raising=True):
        self.monkeypatch.setattr(owner, name, self._watched(name, replacement), raising=raising)

    def set_loss(self, name, function):
        row = TAMPER_RESISTANCE_LOSSES[name]
        self.monkeypatch.setitem(TAMPER_RESISTANCE_LOSSES, name, replace(row, function=self._watched(name, function)))

    def _watched(self, name, replacement):
        self.called[name] = False

        def watched(*args, **kwargs):
            self.called[name] = True
            return replacement(*args, **kwargs)

        return watched


def wrapped(m, owner, name, replacement):
    """Puts `replacement(original, *args)` in the place of a function or method."""
    original = getattr(owner, name)
    m.setattr(owner, name, lambda *args, **kwargs: replacement(original, *args, **kwargs))


# --- losses -----------------------------------------------------------------------------------------------------------


def pads_in_entropy_mean(m):
    def entropy(logits, labels):
        log_p = logits.log_softmax(-1)
        return (log_p.exp() * log_p).sum(), torch.tensor(labels.numel())

    m.set_loss("entropy", entropy)


def prompts_in_entropy_mean(m):
    def entropy(logits, labels):
        return max_entropy_loss(logits, labels.clamp(min=0))

    m.set_loss("entropy", entropy)


def sum_for_mean(m):
    m.set_loss("entropy", lambda *a: (max_entropy_loss(*a)[0], torch.tensor(1)))


def entropy_maximised_the_wrong_way(m):
    m.set_loss("entropy", lambda *a: (-max_entropy_loss(*a)[0], max_entropy_loss(*a)[1]))


def clamp_on_the_wrong_side(m):
    m.setattr(outer_gradient, "max", lambda loss, bound: math.inf if loss > bound else loss, raising=False)


def no_clamp(m):
    m.setattr(outer_gradient, "max", lambda loss, bound: loss, raising=False)


def not_shifted(logits, labels):
    return language_modeling_loss(logits, labels.roll(1, 1))


def in_float32(logits, labels):
    return language_modeling_loss(logits.float(), labels)


def labels_of_retain_not_shifted(m):
    m.setattr(tar_trainer, "language_modeling_loss", not_shifted)


def labels_of_the_attack_not_shifted(m):
    m.setattr(simulation, "language_modeling_loss", not_shifted)


def retain_loss_in_float32(m):
    m.setattr(tar_trainer, "language_modeling_loss", in_float32)


def loss_of_the_attack_in_float32(m):
    m.setattr(simulation, "language_modeling_loss", in_float32)


def mean_log_probability_in_dpo(m):
    wrapped(
        m,
        losses,
        "sequence_log_probs",
        lambda original, logits, labels: original(logits, labels) / (labels != -100).sum(-1),
    )


def dpo_reference_follows_the_model(m):
    def step(original, self, *args):
        rows = self._tamper_resistance_rows
        for row in rows:
            row.pop("reference_log_probs")
        self._batches.add_reference_to_rows(self.model, rows, 8)
        return original(self, *args)

    wrapped(m, TARTrainer, "training_step", step)


# --- anchor and retain term -------------------------------------------------------------------------------------------


def pads_in_anchor(m):
    def loss(hidden, reference, mask, distance):
        return representation_loss(hidden, reference, torch.ones_like(mask), distance)

    m.setattr(tar_trainer, "representation_loss", loss)


def squared_anchor(m):
    m.setattr(
        tar_trainer, "representation_loss", lambda h, r, mask, distance: representation_loss(h, r, mask, "l2_squared")
    )


def relative_to_own_norm(m):
    def loss(hidden, reference, mask, distance):
        own = mask.bool()
        lengths = [
            (torch.linalg.vector_norm((h - r)[own], dim=-1), h[own].norm(dim=-1))
            for h, r in zip(hidden, reference, strict=True)
        ]
        return sum((moved / length).sum() for moved, length in lengths), own.sum() * len(hidden)

    m.setattr(tar_trainer, "representation_loss", loss)


def relative_to_the_mean_length(m):
    def loss(hidden, reference, mask, distance):
        length = torch.stack([r[mask.bool()].norm(dim=-1).mean() for r in reference]).mean()
        total, count = representation_loss(hidden, reference, mask, "l2")
        return total / length, count

    m.setattr(tar_trainer, "representation_loss", loss)


def kl_the_wrong_way_round(m):
    m.setattr(
        tar_trainer,
        "kl_divergence_loss",
        lambda logits, reference, *rest: kl_divergence_loss(reference, logits, *rest),
    )


def kl_over_prompts(m):
    m.setattr(
        tar_trainer,
        "kl_divergence_loss",
        lambda logits, reference, labels, _: kl_divergence_loss(logits, reference, labels.clamp(min=0)),
    )


def kl_not_shifted(m):
    m.setattr(
        tar_trainer,
        "kl_divergence_loss",
        lambda logits, reference, labels, _: kl_divergence_loss(logits, reference, labels.roll(1, 1)),
    )


def kl_in_float32(m):
    m.setattr(
        tar_trainer,
        "kl_divergence_loss",
        lambda logits, reference, *rest: kl_divergence_loss(logits.float(), reference.float(), *rest),
    )


def logits_of_the_model_for_the_reference(m):
    def loss(logits, reference, *rest):
        return kl_divergence_loss(logits, logits.detach(), *rest)

    m.setattr(tar_trainer, "kl_divergence_loss", loss)


def last_hidden_state_only(m):
    def loss(hidden, reference, mask, distance):
        total, count = representation_loss(hidden[-1:], reference[-1:], mask, distance)
        return total * len(hidden), count * len(hidden)

    m.setattr(tar_trainer, "representation_loss", loss)


def reference_drifts(m):
    def step(original, self, *args):
        loss = original(self, *args)
        self.reference.weights = [(p, p.detach().clone()) for p, _ in self.reference.weights]
        return loss

    wrapped(m, TARTrainer, "training_step", step)


def mean_of_micro_batch_means(m):
    def samples(original, self, *args):
        found = original(self, *args)
        counts = [((b["labels"][:, 1:] != -100).sum(), b["attention_mask"].sum() * 3) for b in found[0]]
        names = self.args.retain_weights
        self.counts_of_each = iter(
            [[states if name == "representation" else tokens for name in names] for tokens, states in counts]
        )
        return found

    def loss(original, self, *args, **kwargs):
        self._means.counts = torch.tensor([float(c) for c in next(self.counts_of_each)], dtype=torch.float64) * 2
        return original(self, *args, **kwargs)

    wrapped(m, TARTrainer, "get_batch_samples", samples)
    wrapped(m, TARTrainer, "compute_loss", loss)


def accumulation_ignored(m):
    def step(original, self, *args):
        self.accelerator.gradient_state._set_sync_gradients(True)
        return original(self, *args)

    wrapped(m, TARTrainer, "training_step", step)


# --- the attack -------------------------------------------------------------------------------------------------------


def judged_before_the_step(m):
    def early(original, attacked, adversary, batches, loss_function, interval, in_backward, group, progress):
        steps = original(attacked, adversary, batches, loss_function, 1)
        for k in range(adversary.num_steps):
            if (k + 1) % interval == 0:
                yield k
            next(steps)

    wrapped(m, tar_trainer, "attack_steps", early)


def judged_at_the_end_only(m):
    def late(original, attacked, adversary, batches, loss_function, interval, in_backward, group, progress):
        return original(attacked, adversary, batches, loss_function, adversary.num_steps)

    wrapped(m, tar_trainer, "attack_steps", late)


def snapshot_not_restored(m):
    @contextlib.contextmanager
    def forgetful(original, model, *args):
        with original(model, *args) as attacked:
            yield attacked
            after = [(p, p.detach().clone()) for p in model.parameters()]
        with torch.no_grad():
            for p, value in after:
                p.copy_(value)

    wrapped(m, tar_trainer, "restored", forgetful)


def decay_on_norms_and_biases(m):
    def every_name(self, model):
        return [name for name, _ in model.named_parameters()]

    m.setattr(attack_optimizers.Trainer, "get_decay_parameter_names", every_name)


def optimizer_kept_between_attacks(m):
    kept = []

    def create(original, *args):
        kept[:] = kept or [original(*args)]
        return kept[0]

    wrapped(m, simulation, "create_optimizer", create)


def mean_of_adversary_micro_batches(m):
    def averaged(original, model, parameters, micro_batches, loss_function, group=None):
        parts = [original(model, parameters, [batch], loss_function, group) for batch in micro_batches]
        gradients = [sum(gs) / len(parts) for gs in zip(*(g for _, g in parts), strict=True)]
        return sum(sums for sums, _ in parts), gradients

    wrapped(m, simulation, "mean_gradient", averaged)


def lora_alpha_ignored(m):
    def config(original, adversary, *rest):
        lora = original(adversary, *rest)
        lora.lora_alpha = lora.r
        return lora

    wrapped(m, restored, "lora_config", config)


# --- the sum of the two terms -----------------------------------------------------------------------------------------


def weights_normalised(m):
    def weight(original, step, num_steps, interval, *rest):
        total = sum(original(k, num_steps, interval, *rest) for k in range(interval - 1, num_steps, interval))
        return original(step, num_steps, interval, *rest) / total

    wrapped(m, tar_trainer, "inner_weight", weight)


def weights_one_step_late(m):
    wrapped(m, tar_trainer, "inner_weight", lambda original, step, *rest: original(step + 1, *rest))


def x_tr_redrawn_at_each_evaluation(m):
    def redrawn(original, self, attacked, attacker, terms, step):
        return original(self, attacked, attacker, self.outer_terms(attacker, step), step)

    wrapped(m, TARTrainer, "add_outer_gradient", redrawn)


def not_divided_by_the_number_of_adversaries(m):
    def whole(original, self, *args):
        self.args.adversaries_per_step = 1
        original(self, *args)
        self.args.adversaries_per_step = 2

    wrapped(m, TARTrainer, "add_outer_gradient", whole)


def tamper_resistance_gradient_dropped(m):
    def add(self, weight, gradient):
        pass

    m.setattr(OuterGradient, "add", add)


ACCUMULATED = {"accumulation": 2}
NEGATIVE = {"tamper_resistance_loss": "negative_cross_entropy"}
DPO = {"tamper_resistance_loss": "dpo"}
RELATIVE = {"representation_loss": "relative"}
AT_THE_OUTPUT = {"kl_weight": 1.5, "lm_weight": 0.0, "representation_weight": 0.0}
FAULTS = [  # fault, adversary, settings under which it matters
    (pads_in_entropy_mean, FULL, {}),
    (prompts_in_entropy_mean, FULL, {}),
    (sum_for_mean, FULL, {}),
    (entropy_maximised_the_wrong_way, FULL, {}),
    (clamp_on_the_wrong_side, FULL, NEGATIVE),
    (no_clamp, Adversary("ascent", "retain", batch_size=4, num_steps=4, learning_rate=0.02), NEGATIVE),
    (labels_of_retain_not_shifted, FULL, {}),
    (labels_of_the_attack_not_shifted, FULL, {}),
    (retain_loss_in_float32, FULL, {}),
    (loss_of_the_attack_in_float32, FULL, {}),
    (mean_log_probability_in_dpo, FULL, DPO),
    (dpo_reference_follows_the_model, FULL, DPO),
    (pads_in_anchor, FULL, {}),
    (squared_anchor, FULL, {}),
    (pads_in_anchor, FULL, RELATIVE),
    (squared_anchor, FULL, RELATIVE),
    (relative_to_own_norm, FULL, RELATIVE),
    (relative_to_the_mean_length, FULL, RELATIVE),
    (last_hidden_state_only, FULL, {}),
    (kl_the_wrong_way_round, FULL, AT_THE_OUTPUT),
    (kl_over_prompts, FULL, AT_THE_OUTPUT),
    (kl_not_shifted, FULL, AT_THE_OUTPUT),
    (kl_in_float32, FULL, AT_THE_OUTPUT),
    (logits_of_the_model_for_the_reference, FULL, AT_THE_OUTPUT),
    (reference_drifts, FULL, {}),
    (reference_drifts, FULL, AT_THE_OUTPUT),
    (mean_of_micro_batch_means, FULL, ACCUMULATED),
    (mean_of_micro_batch_means, FULL, {**ACCUMULATED, **AT_THE_OUTPUT}),
    (accumulation_ignored, FULL, ACCUMULATED),
    (judged_before_the_step, FULL, {}),
    (judged_at_the_end_only, FULL, {}),
    (snapshot_not_restored, FULL, {}),
    (decay_on_norms_and_biases, FULL, {}),
    (optimizer_kept_between_attacks, FULL, {}),
    (mean_of_adversary_micro_batches, MICRO_BATCHES, {}),
    (lora_alpha_ignored, SMALL_ALPHA, {}),
    (weights_normalised, FULL, {}),
    (weights_one_step_late, FULL, {}),
    (x_tr_redrawn_at_each_evaluation, FULL, {}),
    (not_divided_by_the_number_of_adversaries, LORA, {"adversaries_per_step": 2}),
    (tamper_resistance_gradient_dropped, FULL, {}),
]


SOUND = {}  # error without a fault; the same for every fault of an attack


@pytest.mark.parametrize(
    ("fault", "adversary", "settings"),
    FAULTS,
    ids=["-".join([fault.__name__, *map(str, settings.values())]) for fault, _, settings in FAULTS],
)
def test_comparison_notices(make_trainer, fault, adversary, settings):
    sound = f"{adversary} {settings}"
    if sound not in SOUND:
        SOUND[sound] = max(errors_of_outer_steps(make_trainer, [adversary], **settings))
    assert SOUND[sound] < EXACT
    with pytest.MonkeyPatch.context() as monkeypatch:
        planting = Planting(monkeypatch)
        fault(planting)
        assert max(errors_of_outer_steps(make_trainer, [adversary], **settings)) > 100 * EXACT
    assert planting.called and all(planting.called.values()), f"planted where nothing runs: {planting.called}"


def test_a_fault_is_planted_only_where_there_is_something(monkeypatch):
    with pytest.raises(AttributeError):
        Planting(monkeypatch).setattr(tar_trainer, "no_such_function", lambda: None)
    with pytest.raises(KeyError, match="no such loss"):
        Planting(monkeypatch).set_loss("no such loss", lambda: None)
    planting = Planting(monkeypatch)
    planting.setattr(attack_optimizers.Trainer, "get_decay_parameter_names", lambda self, model: [])
    assert planting.called == {"get_decay_parameter_names": False}
