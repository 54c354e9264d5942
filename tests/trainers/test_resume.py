"""A run that was stopped goes on as if it had not been, and what is saved is the averaged model."""

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from support import tiny
from transformers import GPT2LMHeadModel, TrainerCallback

from trl_tar import Adversary
from trl_tar.trainers.reference import check_anchor, save_anchor


FULL = Adversary("full", "forget", **tiny.ATTACK)
LORA = Adversary("lora", "rehearsal", lora_r=2, **tiny.ATTACK)
RUN = {
    "adversaries": [FULL, LORA],
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 1,
    "train_sampling_strategy": "random",
    "learning_rate": 0.01,
}
SCHEDULE_FREE = {"optim": "schedule_free_adamw", "warmup_steps": 2}
VARIANTS = {
    "schedule-free": SCHEDULE_FREE,
    "adamw": {"optim": "adamw_torch", "lr_scheduler_type": "linear", "max_grad_norm": 1.0},
    "sgd": {"optim": "sgd"},
    "accumulated": {**SCHEDULE_FREE, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 2},
    "checkpointed": {**SCHEDULE_FREE, "activation_checkpointing": True},
    "dpo": {**SCHEDULE_FREE, "tamper_resistance_loss": "dpo"},
    "bf16": {**SCHEDULE_FREE, "bf16": True, "make_model": lambda: tiny.gpt2(dtype=torch.float32)},
    "bf16 weights": {**SCHEDULE_FREE, "bf16": True, "make_model": lambda: tiny.gpt2(dtype=torch.bfloat16)},
    "bf16 weights, offloaded": {
        **SCHEDULE_FREE,
        **{"bf16": True, "offload": True, "make_model": lambda: tiny.gpt2(dtype=torch.bfloat16)},
    },
    "llama": {**SCHEDULE_FREE, "make_model": tiny.llama},
    "dropout": {**SCHEDULE_FREE, "make_model": lambda: with_dropout()},
}
TRAINER = "transformers.trainer"
FROM_FIRST_ONLY = {
    "accumulated",
    "checkpointed",
    "dpo",
    "bf16",
    "bf16 weights",
    "bf16 weights, offloaded",
    "llama",
    "dropout",
}


def with_dropout():
    model = tiny.gpt2()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1
    return model


def run(make_trainer, output_dir, resume=None, make_model=tiny.gpt2, **settings):
    trainer = make_trainer(make_model(), output_dir=output_dir, **{**RUN, **settings})
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_is_bitwise_the_run_without_a_stop(make_trainer, tmp_path, variant):
    settings = VARIANTS[variant]
    whole = tiny.weights(run(make_trainer, tmp_path / "whole", **settings).model)
    assert not same(whole, tiny.weights(settings.get("make_model", tiny.gpt2)()))
    for step in [2] if variant in FROM_FIRST_ONLY else [1, 2, 3]:
        resumed = run(
            make_trainer,
            tmp_path / f"from-{step}",
            str(tmp_path / "whole" / f"checkpoint-{step}"),
            **{**settings, "save_strategy": "no"},
        )
        assert same(whole, tiny.weights(resumed.model))


def test_training_without_saves_gives_the_same_weights(make_trainer, tmp_path):
    saved = run(make_trainer, tmp_path / "saved", **SCHEDULE_FREE)
    unsaved = run(make_trainer, tmp_path / "unsaved", **SCHEDULE_FREE, save_strategy="no")
    assert same(tiny.weights(saved.model), tiny.weights(unsaved.model))


def test_peft_run_resumes(make_trainer, tmp_path):
    settings = {
        **SCHEDULE_FREE,
        "peft_config": LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"),
    }
    whole = run(make_trainer, tmp_path / "whole", **settings)
    resumed = run(make_trainer, tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-2"), **settings)
    assert same(tiny.weights(whole.model), tiny.weights(resumed.model))


def averaged_by_hand(trainer) -> dict[str, torch.Tensor]:
    """x = y + (1 − 1/β)·(y − z), solved from y = β·x + (1 − β)·z, the other two points of the optimizer."""
    optimizer = trainer.optimizer.optimizer
    beta = optimizer.param_groups[0]["betas"][0]
    return {n: (p.detach() - (1 - beta) * optimizer.state[p]["z"]) / beta for n, p in trainer.model.named_parameters()}


class TrainingPoints(TrainerCallback):
    """y and x, after each outer step."""

    def __init__(self):
        self.y, self.x = [], []

    def on_step_end(self, args, state, control, **kwargs):
        self.y.append(tiny.weights(self.trainer.model))
        self.x.append(averaged_by_hand(self.trainer))


def test_saved_and_returned_model_is_at_the_averaged_point(make_trainer, tmp_path):
    points = TrainingPoints()
    trainer = make_trainer(output_dir=tmp_path, callbacks=[points], **RUN, **SCHEDULE_FREE)
    points.trainer = trainer
    start = tiny.weights(trainer.model)
    trainer.train()
    for step, (x, y) in enumerate(zip(points.x, points.y, strict=True), start=1):
        saved = load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")
        assert tiny.displacement_error({n: saved[n] for n in x}, x, start) < 1e-10
        if step > 1:  # the first average is the first iterate
            assert tiny.displacement_error({n: saved[n] for n in y}, y, start) > 1e-3
    final = tiny.weights(trainer.model)
    assert tiny.displacement_error(final, points.x[-1], start) < 1e-10
    trainer.save_model(str(tmp_path / "final"))
    reloaded = GPT2LMHeadModel.from_pretrained(tmp_path / "final", dtype=torch.float64)
    assert same(final, tiny.weights(reloaded))


def test_saving_and_evaluating_do_not_move_the_training_point(make_trainer, tmp_path):
    class Nosy(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            before = tiny.weights(model)
            self.trainer.save_model(str(tmp_path / "aside"))
            metrics = self.trainer.evaluate()
            assert metrics["eval_loss"] > 0
            prediction = self.trainer.predict(self.trainer.eval_dataset)
            assert prediction.metrics["test_loss"] == metrics["eval_loss"]
            assert metrics["eval_rows"] == prediction.predictions.shape[0] == 5
            assert same(before, tiny.weights(model))
            assert self.trainer.optimizer.optimizer.param_groups[0]["train_mode"]

    rows = tiny.tokenised()["retain"]
    nosy = Nosy()
    settings = {**RUN, **SCHEDULE_FREE, "eval_dataset": tiny.Dataset.from_list(rows[:5])}
    trainer = make_trainer(
        output_dir=tmp_path / "nosy",
        callbacks=[nosy],
        compute_metrics=lambda prediction: {"rows": len(prediction.label_ids)},
        **settings,
    )
    nosy.trainer = trainer
    trainer.train()
    quiet = run(make_trainer, tmp_path / "quiet", **settings)
    assert same(tiny.weights(trainer.model), tiny.weights(quiet.model))


def test_evaluation_during_training_sees_the_averaged_model_and_changes_nothing(make_trainer, tmp_path):
    rows = tiny.tokenised()["retain"][:4]
    settings = {**SCHEDULE_FREE, "eval_dataset": tiny.Dataset.from_list(rows), "retain_weight": 2.0}
    settings |= {"representation_weight": 0.0, "per_device_eval_batch_size": 4}
    trainer = run(make_trainer, tmp_path / "with", eval_strategy="steps", eval_steps=1, **settings)
    plain = run(make_trainer, tmp_path / "without", **settings)
    assert same(tiny.weights(trainer.model), tiny.weights(plain.model))
    logged = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(logged) == 4
    for step, loss in enumerate(logged, start=1):
        model = GPT2LMHeadModel.from_pretrained(tmp_path / "with" / f"checkpoint-{step}", dtype=torch.float64)
        total, count = 0.0, 0
        for row in rows:
            log_p = model(torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
            for t, y in enumerate(row["labels"][1:]):
                if y != -100:
                    total, count = total - log_p[t, y].item(), count + 1
        assert loss == pytest.approx(2.0 * total / count, rel=1e-6)


def test_best_model_at_the_end_is_the_one_that_was_saved(make_trainer, tmp_path):
    rows = tiny.tokenised()["retain"]
    trainer = run(
        make_trainer,
        tmp_path,
        **SCHEDULE_FREE,
        eval_dataset=tiny.Dataset.from_list(rows),
        eval_strategy="steps",
        eval_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        greater_is_better=True,
    )
    saved = load_file(f"{trainer.state.best_model_checkpoint}/model.safetensors")
    final = tiny.weights(trainer.model)
    assert all(torch.equal(saved[n], final[n]) for n in final)


def test_training_twice_goes_on_from_the_averaged_point(make_trainer, tmp_path):
    trainer = make_trainer(output_dir=tmp_path, **{**RUN, **SCHEDULE_FREE, "save_strategy": "no"})
    trainer.train()
    once = tiny.weights(trainer.model)
    trainer.train()
    twice = tiny.weights(trainer.model)
    assert not same(once, twice)
    assert all(p.isfinite().all() for p in trainer.model.parameters())
    assert not trainer.optimizer.optimizer.param_groups[0]["train_mode"]


def test_resuming_with_the_trainer_that_saved_gives_the_same_end(make_trainer, tmp_path):
    trainer = run(make_trainer, tmp_path, **SCHEDULE_FREE)
    whole = tiny.weights(trainer.model)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert same(whole, tiny.weights(trainer.model))


def test_checkpoint_of_other_starting_weights_is_refused(make_trainer, tmp_path):
    run(make_trainer, tmp_path, max_steps=1)
    other = make_trainer(tiny.gpt2(seed=1), output_dir=tmp_path, **RUN)
    with pytest.raises(ValueError, match="trained from other weights than the model given here"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))


def test_a_parameter_without_dimensions_is_part_of_the_anchor(tmp_path):
    save_anchor(str(tmp_path), [torch.tensor(1.0), torch.ones(2)])
    check_anchor(str(tmp_path), [torch.tensor(1.0), torch.ones(2)])
    with pytest.raises(ValueError, match="trained from other weights"):
        check_anchor(str(tmp_path), [torch.tensor(2.0), torch.ones(2)])


def test_checkpoint_of_another_trainer_is_refused(make_trainer, tmp_path):
    run(make_trainer, tmp_path, max_steps=1)
    state = tmp_path / "checkpoint-1" / "tar_state.json"
    for broken in [state.write_text(text[:9]) for text in [state.read_text()]] + [state.unlink]:
        if callable(broken):
            broken()
        with pytest.raises(ValueError, match="no complete tar_state.json.*earlier checkpoint"):
            run(make_trainer, tmp_path, str(tmp_path / "checkpoint-1"))


class Killed(BaseException):
    """As a signal is: nothing catches it."""


def test_checkpoint_is_whole_before_its_last_file_and_before_older_ones_go(make_trainer, tmp_path, monkeypatch):
    settings = {**SCHEDULE_FREE, "save_total_limit": 1}
    whole = tiny.weights(run(make_trainer, tmp_path / "whole", **settings).model)

    def killed(*args, **kwargs):
        raise Killed

    for what in ("rotate_checkpoints", "TrainerState.save_to_json"):
        folder = tmp_path / what
        with monkeypatch.context() as patch:
            trainer = make_trainer(output_dir=folder, **{**RUN, **settings})
            trainer.add_callback(AtStep(2, lambda patch=patch, what=what: patch.setattr(f"{TRAINER}.{what}", killed)))
            with pytest.raises(Killed):
                trainer.train()
        checkpoint = folder / "checkpoint-2"
        complete = (checkpoint / "trainer_state.json").is_file()
        assert complete == (what == "rotate_checkpoints")
        files = {file.name for file in checkpoint.iterdir()} | {"trainer_state.json"}
        assert files == {file.name for file in (tmp_path / "whole" / "checkpoint-4").iterdir()}
        newest = checkpoint if complete else folder / "checkpoint-1"
        resumed = run(make_trainer, folder, str(newest), **settings)
        assert same(whole, tiny.weights(resumed.model))


class AtStep(TrainerCallback):
    """Does something at the end of a step, before its checkpoint."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.action()


def test_schedule_free_checkpoint_without_its_training_point_is_refused(make_trainer, tmp_path):
    run(make_trainer, tmp_path, **SCHEDULE_FREE)
    (tmp_path / "checkpoint-2" / "schedule_free_y.safetensors").unlink()
    with pytest.raises(ValueError, match="no schedule_free_y.safetensors.*Resume from") as error:
        run(make_trainer, tmp_path, str(tmp_path / "checkpoint-2"), **SCHEDULE_FREE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("first", "then"), [(SCHEDULE_FREE, {"optim": "adamw_torch"}), ({"optim": "sgd"}, SCHEDULE_FREE)]
)
def test_a_checkpoint_of_another_kind_of_optimizer_is_refused(make_trainer, tmp_path, first, then):
    run(make_trainer, tmp_path, **first)
    with pytest.raises(ValueError, match="schedule_free_y.safetensors, .* and `optim` is '.*'. Resume from") as error:
        run(make_trainer, tmp_path, str(tmp_path / "checkpoint-2"), **then)
    assert "\n" not in str(error.value)


def test_interrupted_training_leaves_the_averaged_model(make_trainer, tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    points = TrainingPoints()
    callbacks = [points, AtStep(3, interrupted)]
    trainer = make_trainer(output_dir=tmp_path, callbacks=callbacks, **RUN, **SCHEDULE_FREE)
    points.trainer = trainer
    start = tiny.weights(trainer.model)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert tiny.displacement_error(tiny.weights(trainer.model), points.x[-1], start) < 1e-10
    assert tiny.displacement_error(points.y[-1], points.x[-1], start) > 1e-3


def test_bf16_autocast_trains_float32_weights_close_to_float32(make_trainer, tmp_path):
    def final(**settings):
        # an SGD attack: Adam makes whole steps of rounding
        attack = Adversary("sgd", "forget", optimizer="sgd", **tiny.ATTACK)
        trainer = make_trainer(tiny.gpt2(dtype=torch.float32), adversaries=[attack], **settings)
        trainer.train()
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
        return tiny.weights(trainer.model)

    error = tiny.displacement_error(final(bf16=True), final(), tiny.weights(tiny.gpt2(dtype=torch.float32)))
    assert 1e-5 < error < 0.1  # it did run in bf16, and bf16 has 8 bits


def test_bf16_dpo_starts_at_ln_2(make_trainer):
    none = Adversary("none", "forget", num_steps=0)
    model = tiny.gpt2(dtype=torch.float32)
    trainer = make_trainer(model, adversaries=[none], bf16=True, tamper_resistance_loss="dpo", max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["tamper_resistance_loss/first"] == pytest.approx(0.6931471805599453, abs=1e-7)


@pytest.mark.parametrize("adversary", [FULL, LORA], ids=lambda a: a.name)
def test_activation_checkpointing_changes_no_gradient(make_trainer, adversary):
    def final(**settings):
        trainer = make_trainer(adversaries=[adversary], max_steps=2, **settings)
        trainer.train()
        hooks = len(trainer.model.get_input_embeddings()._forward_hooks)
        return tiny.weights(trainer.model), hooks

    (with_it, hooks), (without, _) = final(activation_checkpointing=True), final()
    assert tiny.displacement_error(with_it, without, tiny.weights(tiny.gpt2())) < 1e-10
    assert hooks <= 1  # transformers' own; an attack adds none


def test_tensorboard_gets_the_metrics(make_trainer, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(make_trainer, tmp_path, report_to="tensorboard", save_strategy="no", max_steps=1)
    (events,) = tmp_path.rglob("events.out.tfevents.*")
    log = EventAccumulator(str(events))
    log.Reload()
    assert "train/tamper_resistance_loss/last" in log.Tags()["scalars"]
