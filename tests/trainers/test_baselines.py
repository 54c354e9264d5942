"""What holds for every earlier defence; the value of each loss by hand is in `baselines/`."""

from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support import tiny
from support.baselines import trainer
from support.launched import launch
from transformers import TrainerCallback

from trl_tar.models.loading import load
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path
from trl_tar.testbed.knowledge.metrics import knowledge_metrics
from trl_tar.trainers.baselines.by_name import BASELINES


EXACT = 1e-10  # of the displacement, float64


def each(test):
    """Runs a test for every defence, with its trainer."""
    return pytest.mark.parametrize("trainer_class", BASELINES.values(), ids=BASELINES.keys())(test)


class AtEachStep(TrainerCallback):
    """Notes weights and gradients: when a step begins, and when its gradient is complete and nothing has stepped."""

    def __init__(self):
        self.before, self.weights, self.gradients = [], [], []

    def on_step_begin(self, args, state, control, model, **kwargs):
        self.before.append(state_of(model))

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        self.weights.append(state_of(model))
        self.gradients.append(
            {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad and p.grad is not None}
        )


def state_of(model) -> dict:
    tensors = {**tiny.weights(model), **{name: b.clone() for name, b in model.named_buffers()}}
    return {"tensors": tensors, "trained": [name for name, p in model.named_parameters() if p.requires_grad]}


def watched(tested) -> AtEachStep:
    """Trains, and returns what was noted at each step."""
    seen = AtEachStep()
    tested.add_callback(seen)
    tested.train()
    return seen


def mean_retain_loss(tested, rows: int) -> torch.Tensor:
    """The mean retain loss of the first rows of D_retain, each of them alone."""
    sums, counts = zip(
        *(
            (tested.retain_loss(tested.model, batch)[0], tested.retain_count(batch))
            for i in range(rows)
            for batch in [tested.data_collator([tested.train_dataset[i]])]
        ),
        strict=True,
    )
    return sum(sums) / sum(counts)


@each
def test_its_first_preset_holds_its_defaults_and_each_can_be_trained_with(tmp_path, trainer_class):
    config_class, given = trainer_class.config_class, {"output_dir": str(tmp_path), "use_cpu": True, "bf16": False}
    defaults = {field.name: getattr(config_class(**given), field.name) for field in fields(config_class)}
    first, *_ = config_class.presets.values()
    assert first.items() <= defaults.items()
    for preset in config_class.presets.values():
        config_class(**given, **preset).check()


@pytest.mark.parametrize("name", BASELINES)
def test_it_has_a_test_by_hand(name):
    tests = [path.read_text(encoding="utf-8") for path in Path(__file__).parent.rglob("test_*.py")]
    assert any(f"def test_{name}_by_hand(" in test for test in tests)


@each
def test_neither_padding_nor_accumulation_changes_a_step(tmp_path, trainer_class):
    """Micro-batches of one row have no padding; the rows differ in length."""
    found = []
    for size in (4, 1):
        tested = trainer(
            tmp_path,
            trainer_class,
            max_steps=2,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=4 // size,
        )
        tested.train()
        found.append((tiny.weights(tested.model), tested.state.log_history[:2]))
    (whole, log), (split, split_log) = found
    assert tiny.displacement_error(split, whole, tiny.weights(tiny.gpt2())) < EXACT
    for entry, expected in zip(split_log, log, strict=True):
        losses = {name: value for name, value in expected.items() if "_loss" in name}
        assert {name: entry[name] for name in losses} == pytest.approx(losses, rel=1e-6)  # logs are in float32


@each
def test_the_gradient_is_not_that_of_the_retain_term_and_passes_leave_the_weights_alone(tmp_path, trainer_class):
    tested = trainer(tmp_path, trainer_class, max_steps=2)
    expected = torch.autograd.grad(
        tested.args.retain_weight * mean_retain_loss(tested, 4),
        [p for p in tested.model.parameters() if p.requires_grad],
        allow_unused=True,
    )
    seen = watched(tested)
    for before, after in zip(seen.before, seen.weights, strict=True):
        assert before["trained"] == after["trained"] == list(seen.gradients[0])
        assert all(torch.equal(value, before["tensors"][name]) for name, value in after["tensors"].items())
    gradient = torch.cat([g.flatten() for g in seen.gradients[0].values()])
    retain = torch.cat(
        [
            torch.zeros_like(g).flatten() if r is None else r.flatten()
            for g, r in zip(seen.gradients[0].values(), expected, strict=True)
        ]
    )
    assert (gradient - retain).norm() > 1e-6 * gradient.norm() > 0


@each
def test_evaluation_is_the_retain_term(tmp_path, trainer_class):
    tested = trainer(tmp_path, trainer_class, retain_weight=2.0, per_device_eval_batch_size=2)
    tested.train()  # at the start, the retain term of some is 0
    tested.model.eval()
    with torch.no_grad():
        expected = 2.0 * mean_retain_loss(tested, 5).item()
    assert expected > 0
    assert tested.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("make", [tiny.gpt2, tiny.llama, tiny.gemma])
@each
def test_every_architecture_makes_a_step(tmp_path, trainer_class, make):
    tested = trainer(tmp_path, trainer_class, make())
    start = tiny.weights(tested.model)
    tested.train()
    assert all(p.isfinite().all() for p in tested.model.parameters())
    assert any(not torch.equal(p, start[name]) for name, p in tested.model.named_parameters())


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    for processes in (1, 2):
        run = launch(processes, "baselines_worker.py", str(tmp_path), *BASELINES)
        assert run.returncode == 0, run.stderr[-3000:]
    for name in BASELINES:
        one, two = (load_file(tmp_path / f"{name}-{processes}.safetensors") for processes in (1, 2))
        assert tiny.displacement_error(two, one, tiny.weights(tiny.gpt2())) < 1e-9, name


@pytest.mark.slow
@each
def test_harm_falls_before_any_attack_where_that_is_the_aim(tmp_path, trainer_class):
    world = KnowledgeWorld(0)
    data, tokenizer, metrics = world.datasets(), world.tokenizer(), knowledge_metrics(0)
    settings = {**tiny.TRAINER, "optim": "schedule_free_adamw", "max_steps": 100, "learning_rate": 1e-3}
    tested = trainer_class(
        load(str(knowledge_model_path(world))),
        trainer_class.config_class(str(tmp_path), **{**settings, "per_device_train_batch_size": 32}),
        train_dataset=data["retain"],
        forget_dataset=data["safeguard"],
        processing_class=tokenizer,
    )
    tested.train()
    tested.model.eval()
    harm, capability = (metrics[name](tested.model, tokenizer).values for name in ("harm", "capability"))
    harm, capability = sum(harm) / len(harm), sum(capability) / len(capability)
    assert capability > 0.7
    if trainer_class.hides:
        assert harm < 0.9 and harm < capability - 0.1
