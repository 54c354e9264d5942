"""Defences with a second data set: what a step draws of it, what means divide by, and what a defence has to write."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from datasets import Dataset
from support import tiny

from trl_tar import ForgetConfig, ForgetTrainer, RandomMappingConfig, RandomMappingTrainer
from trl_tar.adversaries.data_order import draw_rows
from trl_tar.losses import dpo_loss, max_entropy_loss, sequence_log_probs
from trl_tar.models.forward_passes import next_token_logits
from trl_tar.views.training_table import phase_settings


EXACT = 1e-10  # of the displacement, float64
ROWS = tiny.tokenised()


@dataclass
class AscentConfig(ForgetConfig):
    method: ClassVar[str] = "gradient ascent"

    rate: float = 0.5


class Ascent(ForgetTrainer):
    """A defence with two means: the cross-entropy goes up, and the entropy too."""

    config_class = AscentConfig

    def forget_loss(self, model, batch):
        cross_entropy, outputs = self.retain_loss(model, batch)
        return torch.stack([-self.args.rate * cross_entropy, max_entropy_loss(outputs.logits, batch["labels"])[0]])

    def forget_count(self, batch):
        return self.retain_count(batch).repeat(2)


class Preferring(ForgetTrainer):
    """A defence on pairs."""

    forget_objective = "dpo"

    def forget_loss(self, model, batch):
        log_probs = sequence_log_probs(next_token_logits(model, batch), batch["labels"])
        return dpo_loss(log_probs, torch.zeros_like(log_probs), beta=0.1)[0]

    def forget_count(self, batch):
        return torch.tensor(len(batch["labels"]) // 2)


def trainer(tmp_path, trainer_class=RandomMappingTrainer, config_class=RandomMappingConfig, data="forget", **settings):
    return trainer_class(
        tiny.gpt2(),
        config_class(str(tmp_path), **{**tiny.TRAINER, **settings}),
        train_dataset=Dataset.from_list(ROWS["retain"]),
        forget_dataset=Dataset.from_list(ROWS[data]),
        processing_class=tiny.tokenizer(),
    )


@pytest.mark.parametrize("optim", ["sgd", "adamw_torch"])
@pytest.mark.parametrize(
    ("trainer_class", "config_class", "data"),
    [
        (RandomMappingTrainer, RandomMappingConfig, "forget"),
        (Ascent, AscentConfig, "forget"),
        (Preferring, ForgetConfig, "pairs"),
    ],
)
def test_accumulation_changes_nothing(tmp_path, trainer_class, config_class, data, optim):
    assert len({len(row.get("input_ids", row.get("chosen_ids"))) for row in ROWS[data]}) > 1

    def run(accumulation):
        settings = {"optim": optim, "gradient_accumulation_steps": accumulation, "adam_epsilon": 1e-3}
        settings |= {"per_device_train_batch_size": 4 // accumulation, "forget_batch_size": 8 // accumulation}
        trained = trainer(tmp_path, trainer_class, config_class, data, **settings)
        trained.train()
        return tiny.weights(trained.model), trained.state.log_history[:-1]

    (whole, log), start = run(1), tiny.weights(tiny.gpt2())
    for accumulation in (2, 4):
        found, found_log = run(accumulation)
        assert tiny.displacement_error(found, whole, start) < EXACT
        for expected, entry in zip(log, found_log, strict=True):
            for name in ("retain_loss/lm", "forget_loss"):
                assert entry[name] == pytest.approx(expected[name], rel=1e-10)


def test_a_step_draws_rows_of_d_forget_once_by_seed_and_step(tmp_path):
    tested = trainer(tmp_path, seed=3, forget_batch_size=2)
    tested.state.global_step = 5
    (batch,) = tested.draw_forget_batches(1)
    expected = [ROWS["forget"][i]["input_ids"] for i in draw_rows(len(ROWS["forget"]), 2, "3 forget 5 0")]
    assert [ids[mask.bool()].tolist() for ids, mask in rows_of(batch)] == expected
    batches = tested.draw_forget_batches(4)
    drawn = [ids[mask.bool()].tolist() for batch in batches for ids, mask in rows_of(batch)]
    expected = [ROWS["forget"][i]["input_ids"] for i in draw_rows(len(ROWS["forget"]), 8, "3 forget 5 0")]
    assert [len(batch["input_ids"]) for batch in batches] == [2, 2, 2, 2]
    assert sorted(drawn) == sorted(expected)


def rows_of(batch):
    return zip(batch["input_ids"], batch["attention_mask"], strict=True)


def test_a_defence_with_two_means_steps_by_the_gradient_of_their_sum(tmp_path):
    settings = {"forget_batch_size": 10, "max_steps": 1, "forget_weight": 2.0, "retain_weight": 3.0}
    tested = trainer(tmp_path, Ascent, AscentConfig, **settings)
    start = tiny.weights(tested.model)
    tested.train()

    model = tiny.gpt2()

    def log_probs(rows):
        for row in rows:
            log_p = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            yield from ((log_p[t - 1], label) for t, label in enumerate(row["labels"]) if t > 0 and label != -100)

    retain = -torch.stack([log_p[label] for log_p, label in log_probs(ROWS["retain"][:4])]).mean()
    cross_entropy = -torch.stack([log_p[label] for log_p, label in log_probs(ROWS["forget"])]).mean()
    entropy = -torch.stack([(log_p.exp() * log_p).sum() for log_p, _ in log_probs(ROWS["forget"])]).mean()
    (3.0 * retain + 2.0 * (-0.5 * cross_entropy - entropy)).backward()
    expected = {name: p.detach() - 0.1 * p.grad for name, p in model.named_parameters()}
    assert tiny.displacement_error(tiny.weights(tested.model), expected, start) < EXACT
    entry = tested.state.log_history[0]
    assert entry["forget_loss"] == pytest.approx(-0.5 * cross_entropy.item() - entropy.item(), rel=1e-10)
    assert entry["retain_loss/lm"] == pytest.approx(retain.item(), rel=1e-10)


def test_the_last_shorter_step_draws_rows_for_the_micro_batches_that_it_has(tmp_path):
    # 12 rows of D_retain in steps of 2 × 4: the second step has one micro-batch
    tested = trainer(tmp_path, gradient_accumulation_steps=2, max_steps=2, forget_batch_size=3)
    asked, draw = [], tested.draw_forget_batches
    tested.draw_forget_batches = lambda micro_batches: asked.append(micro_batches) or draw(micro_batches)
    tested.train()
    assert asked == [2, 1]


def test_too_few_rows_for_all_micro_batches_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`forget_dataset` has 10 rows, fewer than the 12"):
        trainer(tmp_path, gradient_accumulation_steps=3, forget_batch_size=4)


def test_a_card_names_the_method_of_the_configuration(tmp_path):
    tested = trainer(tmp_path, Ascent, AscentConfig)
    rows = {row["label"]: row["cells"] for row in phase_settings([tested._phase()])}
    assert rows["loss"] == ["gradient ascent"]
    tested.create_model_card()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "Trained with Ascent of [trl-tar](https://pypi.org/project/trl-tar)." in card
    mapping = trainer(tmp_path, forget_batch_size=2)._phase()
    rows = {row["label"]: row["cells"] for row in phase_settings([mapping])}
    assert rows["loss"] == ["random mapping"] and rows["batch of what is hidden"] == ["2"]


def test_the_loss_of_a_defence_is_its_own(tmp_path):
    with pytest.raises(NotImplementedError, match="ForgetTrainer has no forget_loss"):
        trainer(tmp_path, ForgetTrainer, ForgetConfig)


@pytest.mark.parametrize("config_class", [ForgetConfig, AscentConfig])
def test_a_configuration_of_another_trainer_is_refused(tmp_path, config_class):
    with pytest.raises(ValueError, match=f"`args` is '{config_class.__name__}'. Give .* a RandomMappingConfig"):
        trainer(tmp_path, config_class=config_class)
