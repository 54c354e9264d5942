"""TARTrainer's outer step equals the slow reference, step for step."""

import copy

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from support import reference, tiny
from support.architectures import tiny_model
from support.exactness import EXACT, FULL, LORA, Recorded, errors, errors_of_outer_steps, reference_setup
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from trl_tar import Adversary
from trl_tar.data.tokenisation import tokenised_rows
from trl_tar.trainers.reference import Reference


LLAMA = 1e-6  # of the displacement: Llama computes its norms in float32 whatever its weights are
FLOAT32 = 1e-5  # weights in float32 as well: each gradient and each step rounds to 6e-8, over 4 inner and 3 outer steps
ANCHORS = {  # terms of the retain loss other than those of Eq. 2
    "relative": {"representation_loss": "relative"},
    "kl": {"kl_weight": 1.5},
    "kl-warm": {"kl_weight": 1.5, "kl_temperature": 2.0},
    "kl-alone": {"lm_weight": 0.0, "representation_weight": 0.0, "kl_weight": 1.5},
    "anchors-alone": {"lm_weight": 0.0, "representation_loss": "relative", "kl_weight": 1.5},
    "hidden-states-alone": {"lm_weight": 0.0, "representation_loss": "l2_squared"},
}
MOMENTUM = {"optimizer": "sgd", "momentum": 0.9, **tiny.ATTACK}


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("adversaries_per_step", [1, 2])
@pytest.mark.parametrize("adversary", [FULL, LORA], ids=lambda a: a.name)
@pytest.mark.parametrize("weighting", ["exponential", "uniform"])
@pytest.mark.parametrize("loss", ["entropy", "dpo", "negative_cross_entropy", "inverse_cross_entropy"])
def test_outer_steps_equal_the_reference(make_trainer, loss, weighting, adversary, adversaries_per_step, accumulation):
    found = errors_of_outer_steps(
        make_trainer,
        [adversary],
        accumulation=accumulation,
        tamper_resistance_loss=loss,
        inner_weighting=weighting,
        adversaries_per_step=adversaries_per_step,
    )
    assert max(found) < EXACT


# one table of adversaries whose shape differs
ADVERSARIES = [
    [Adversary("mixture", mixture={"forget": 0.5, "rehearsal": 0.5}, **tiny.ATTACK)],
    [Adversary("uneven-mixture", mixture={"forget": 1, "rehearsal": 2}, **{**tiny.ATTACK, "batch_size": 5})],
    [Adversary("retain-forget", "forget", first_dataset="rehearsal", **tiny.ATTACK)],
    [Adversary("switch-early", "forget", first_dataset="rehearsal", switch_at=0.25, **tiny.ATTACK)],
    [Adversary("dpo", "pairs", objective="dpo", **tiny.ATTACK)],
    [Adversary("dpo-lora", "pairs", objective="dpo", lora_r=2, **tiny.ATTACK)],
    [Adversary("momentum", "forget", weight_decay=0.1, **MOMENTUM)],
    [Adversary("nesterov", "forget", nesterov=True, **MOMENTUM)],
    [Adversary("decayed", "forget", weight_decay=0.5, **tiny.ATTACK)],
    [Adversary("decayed-lora", "forget", weight_decay=0.5, lora_r=2, lora_alpha=3, **tiny.ATTACK)],
    [Adversary("micro-batches", "forget", micro_batch_size=3, **tiny.ATTACK)],
    [Adversary("none", "forget", num_steps=0)],
    [Adversary("odd-length", "forget", **{**tiny.ATTACK, "num_steps": 5})],
    [Adversary("rare", "forget", weight=0.2, **tiny.ATTACK), LORA, Adversary("often", "rehearsal", **MOMENTUM)],
]


@pytest.mark.parametrize("adversaries", ADVERSARIES, ids=lambda adversaries: adversaries[0].name)
def test_every_shape_of_attack_equals_the_reference(make_trainer, adversaries):
    assert max(errors_of_outer_steps(make_trainer, adversaries, adversaries_per_step=2)) < EXACT


@pytest.mark.parametrize(
    "settings",
    [
        {"representation_loss": "l2_squared"},
        {"representation_weight": 0.0},
        {"kl_weight": 1.5, "representation_weight": 0.0},
        {"lm_weight": 0.3},
        {"retain_weight": 0.0},
        {"tamper_resistance_weight": 0.0},
        {"retain_weight": 3.0, "tamper_resistance_interval": 1},
        {"tamper_resistance_interval": 4, "inner_weighting_rate": 0.7},
        {"tamper_resistance_loss": "dpo", "beta": 1.5},
        {"seed": 7},
        {"tamper_resistance_batch_size": 7},
    ],
    ids=lambda settings: "-".join(f"{name}={value}" for name, value in settings.items()),
)
def test_every_setting_equals_the_reference(make_trainer, settings):
    assert max(errors_of_outer_steps(make_trainer, [FULL, LORA], **settings)) < EXACT


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("terms", ANCHORS)
def test_every_retain_term_equals_the_reference(make_trainer, terms, accumulation):
    assert max(errors_of_outer_steps(make_trainer, [FULL], accumulation=accumulation, **ANCHORS[terms])) < EXACT


@pytest.mark.parametrize(
    ("terms", "wanted"),
    [
        ("kl", (True, True)),
        ("kl-alone", (False, True)),
        ("relative", (True, False)),
        ("hidden-states-alone", (True, False)),
    ],
)
def test_the_reference_makes_one_pass_for_what_is_needed(make_trainer, monkeypatch, terms, wanted):
    passes = []
    outputs = Reference.outputs

    def watched(self, *asked):
        hidden, kept = outputs(self, *asked)
        passes.append((hidden != (), kept is not None))
        return hidden, kept

    monkeypatch.setattr(Reference, "outputs", watched)
    make_trainer(max_steps=1, **ANCHORS[terms]).train()
    assert passes == [wanted]


def test_without_anchors_the_reference_makes_no_pass(make_trainer, monkeypatch):
    monkeypatch.setattr(Reference, "outputs", lambda *_: pytest.fail("a pass of the reference"))
    make_trainer(max_steps=1, representation_weight=0.0).train()


@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2}], ids=["whole", "accumulated"])
def test_a_last_shorter_step_is_a_mean_over_its_own_rows(make_trainer, settings):
    # 12 retain rows in steps of 8: the second step of the epoch has 4
    recorded = Recorded()
    size = 8 // settings.get("gradient_accumulation_steps", 1)
    trainer = make_trainer(callbacks=[recorded], per_device_train_batch_size=size, max_steps=2, **settings)
    start = tiny.weights(trainer.model)
    trainer.train()
    setup = reference_setup(tiny.gpt2(), trainer.adversaries, batch_size=8)
    first = reference.outer_steps(setup, 1)
    assert errors(recorded.steps[:1], first, start)[0] < EXACT
    setup = reference_setup(tiny.gpt2(), trainer.adversaries, batch_size=4)
    base, untouched = first[0], {}
    g_retain = reference.retain_gradient(setup, base, base, (dict(tiny.weights(tiny.gpt2())), untouched), step=2)
    g_tr = reference.tamper_resistance_gradient(setup, base, base, (base, untouched), trainer.adversaries[0], 1, 0)
    second = {n: w - setup.learning_rate * (g_retain[n] + 2.0 * g_tr[n]) for n, w in base.items()}
    assert errors(recorded.steps[1:], [second], start)[0] < EXACT


SGD = Adversary("sgd", "forget", optimizer="sgd", **tiny.ATTACK)
SGD_LORA = Adversary("sgd-lora", "forget", optimizer="sgd", lora_r=2, **tiny.ATTACK)


def llama_in_float64():
    return tiny.llama().double()


# no Adam on LoRA: it divides the float32 rounding of the norms by gradients near 0, and comes to 1.4e-6
@pytest.mark.parametrize("adversary", [FULL, SGD, SGD_LORA], ids=lambda a: a.name)
def test_llama_equals_the_reference_after_one_and_three_steps(make_trainer, adversary):
    first, _, third = errors_of_outer_steps(make_trainer, [adversary], llama_in_float64)
    assert first < LLAMA
    assert third < LLAMA


@pytest.mark.parametrize("adversary", [FULL, LORA, SGD, SGD_LORA], ids=lambda a: a.name)
def test_llama_with_norms_in_float64_equals_the_reference(make_trainer, monkeypatch, adversary):
    def norm(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)

    def exact_llama():  # a name of its own in the cache of the reference
        return llama_in_float64()

    assert max(errors_of_outer_steps(make_trainer, [adversary], exact_llama)) < EXACT


@pytest.mark.parametrize("adversary", [SGD, SGD_LORA], ids=lambda a: a.name)
def test_llama_in_float32_equals_the_reference(make_trainer, adversary):
    found = errors_of_outer_steps(make_trainer, [adversary], tiny.llama)
    assert max(found) < FLOAT32


@pytest.mark.parametrize("adversary", [FULL, LORA], ids=lambda a: a.name)
@pytest.mark.parametrize(
    "settings",
    [{"tamper_resistance_loss": "entropy"}, {"tamper_resistance_loss": "dpo"}, ANCHORS["anchors-alone"]],
    ids=["entropy", "dpo", "anchors"],
)
def test_with_a_peft_model_the_adapter_gets_the_gradient_of_the_merged_model(make_trainer, settings, adversary):
    adversary = Adversary(
        f"no-decay-{adversary.name}", "forget", lora_r=adversary.lora_r, weight_decay=0, **tiny.ATTACK
    )
    recorded = Recorded()
    trainer = make_trainer(
        adversaries=[adversary],
        callbacks=[recorded],
        peft_config=LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM"),
        **settings,
    )
    base = tiny.gpt2()
    setup = reference_setup(base, [adversary], **settings)
    setup.outer_adapter = reference.adapter_weights(trainer.model)
    untouched = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    trainer.train()

    def layers(step):
        return {n.removeprefix("base_model.model.").removesuffix(".default.weight"): w for n, w in step.items()}

    found = errors(map(layers, recorded.steps), reference.outer_steps(setup, 3), setup.outer_adapter)
    assert max(found) < EXACT
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[n], w) for n, w in untouched.items())


@pytest.mark.parametrize(("objective", "data"), [("sft", "forget"), ("dpo", "pairs")])
def test_micro_batches_have_rows_of_a_length_together(make_trainer, rows, objective, data):
    def widths(**settings):
        found = make_trainer()._batches.micro_batches(rows[data][:8], objective, **settings)
        return [batch["input_ids"].shape[1] for batch in found], sum(int(b["attention_mask"].sum()) for b in found)

    each, tokens = widths(micro_batch_size=1)
    two, tokens_of_two = widths(micro_batch_size=2)
    assert two == sorted(each)[1::2] and each == sorted(each)
    assert tokens == tokens_of_two == widths(micro_batch_size=None)[1]


def test_accumulated_micro_batches_equal_one_batch(make_trainer):
    def final(**settings):
        trainer = make_trainer(adversaries=[FULL, LORA], **settings)
        trainer.train()
        return tiny.weights(trainer.model)

    one = final(per_device_train_batch_size=4)
    two = final(per_device_train_batch_size=2, gradient_accumulation_steps=2, tamper_resistance_micro_batch_size=2)
    assert tiny.displacement_error(two, one, tiny.weights(tiny.gpt2())) < EXACT


@pytest.mark.parametrize("settings", [{}, ANCHORS["anchors-alone"], ANCHORS["kl-alone"]], ids=["l2", "anchors", "kl"])
def test_another_reference_model_moves_only_the_anchor(make_trainer, settings):
    other = tiny.gpt2(seed=5)
    trainer = make_trainer(ref_model=other, max_steps=1, **settings)
    trainer.train()
    base = tiny.weights(tiny.gpt2())
    setup = reference_setup(tiny.gpt2(), trainer.adversaries, **settings)
    g_retain = reference.retain_gradient(setup, base, base, (tiny.weights(other), {}), step=0)
    g_tr = reference.tamper_resistance_gradient(setup, base, base, (base, {}), trainer.adversaries[0], 0, 0)
    expected = {n: w - 0.1 * (g_retain[n] + 2.0 * g_tr[n]) for n, w in base.items()}
    assert tiny.displacement_error(tiny.weights(trainer.model), expected, base) < EXACT


@pytest.mark.parametrize("settings", [{}, ANCHORS["kl"]], ids=["l2", "kl"])
def test_reference_model_runs_in_the_precision_of_the_model(make_trainer, settings):
    def final(ref_model=None):
        trainer = make_trainer(tiny.gpt2(dtype=torch.float32), ref_model=ref_model, bf16=True, **settings)
        trainer.train()
        return tiny.weights(trainer.model)

    with_copy, without = final(tiny.gpt2(dtype=torch.float32)), final()  # the copy is θ_G0
    assert all(torch.equal(with_copy[n], without[n]) for n in without)


@pytest.mark.parametrize(("mode", "kept"), [("keep_start", "w1 w2 w3 w4"), ("keep_end", "w3 w4 w5 <eos>")])
def test_long_pairs_are_cut_at_the_end_that_was_asked_for(make_trainer, mode, kept):
    pairs = Dataset.from_dict({"prompt": ["w1 w2 w3"] * 4, "chosen": [" w4 w5"] * 4, "rejected": [" w6"] * 4})
    adversary = Adversary("dpo", "pairs", objective="dpo", **tiny.ATTACK)
    settings = {"max_length": 4, "truncation_mode": mode, "max_steps": 1, "tamper_resistance_batch_size": 2}
    trainer = make_trainer(adversaries=[adversary], data={"pairs": pairs}, **settings)
    batch = trainer._batches.collators["dpo"](trainer._adversary_rows["pairs"])
    assert batch["input_ids"][0].tolist() == tiny.ids(kept)
    assert batch["labels"][0].tolist() == [i if i not in tiny.ids("w1 w2 w3") else -100 for i in tiny.ids(kept)]
    trainer.train()


@pytest.mark.parametrize("loss", ["entropy", "dpo"])
def test_raw_data_sets_train_like_tokenised_ones(make_trainer, loss):
    def final(**settings):
        mixed = Adversary(
            "mixed", mixture={"forget": 1, "rehearsal": 1}, **tiny.ATTACK
        )  # masked prompts and plain text
        dpo = Adversary("dpo", "pairs", objective="dpo", **tiny.ATTACK)
        trainer = make_trainer(adversaries=[mixed, dpo], tamper_resistance_loss=loss, **settings)
        trainer.train()
        return tiny.weights(trainer.model)

    raw = tiny.raw()
    held_out = raw["tamper_resistance_pairs" if loss == "dpo" else "tamper_resistance"]
    from_raw, from_rows = final(data=raw, tamper_resistance_dataset=held_out), final()
    assert all(torch.equal(from_raw[n], from_rows[n]) for n in from_rows)


def test_a_data_set_that_cannot_be_prepared_leaves_the_trainer_as_it_was(make_trainer):
    trainer = make_trainer()
    before = trainer.completion_only_loss
    with pytest.raises(KeyError):
        tokenised_rows(trainer, Dataset.from_dict({"sentence": ["w1 w2"]}), "sentences")
    trainer.completion_only_loss = not before
    with pytest.raises(KeyError):
        tokenised_rows(trainer, Dataset.from_dict({"sentence": ["w1 w2"]}), "sentences")
    assert trainer.completion_only_loss is not before


def test_numbers_from_yaml_are_numbers(make_trainer):
    settings = {"tamper_resistance_weight": "4", "learning_rate": "2e-6", "tamper_resistance_interval": "2"}
    args = make_trainer(**settings).args
    assert (args.tamper_resistance_weight, args.learning_rate, args.tamper_resistance_interval) == (4.0, 2e-6, 2)
    assert isinstance(args.tamper_resistance_interval, int)


def test_adversaries_may_come_from_a_generator(make_trainer):
    trainer = make_trainer(adversaries=(a for a in [FULL, LORA]), max_steps=1)
    trainer.train()
    assert trainer.adversaries == [FULL, LORA]


def test_conversations_are_rendered_by_the_chat_template(make_trainer):
    talk = tiny.conversational(6, "talk")
    trainer = make_trainer(data={"forget": talk}, max_steps=1)
    expected = [f"user {m[0]['content']} assistant {m[1]['content']} <eos>" for m in talk["messages"]]
    assert [row["input_ids"] for row in trainer._adversary_rows["forget"]] == [tiny.ids(words) for words in expected]
    trainer.train()


def test_log_reports_both_terms_and_the_attack(make_trainer):
    often, never = Adversary("often", "forget", **tiny.ATTACK), Adversary("never", "forget", weight=1e-9, **tiny.ATTACK)
    trainer = make_trainer(adversaries=[often, never], logging_steps=3)
    trainer.train()
    log = trainer.state.log_history[0]
    assert log["adversary/often"] == 1.0
    assert log["adversary/never"] == 0.0
    assert log["attacks_diverged"] == 0.0
    assert log["adversary_loss/last"] < log["adversary_loss/first"]
    for name in ("retain_loss/lm", "retain_loss/representation", "grad_norm/retain", "grad_norm/tamper_resistance"):
        assert log[name] > 0
    assert -1 <= log["grad_cosine"] <= 1
    total = log["retain_loss/lm"] + 0.5 * log["retain_loss/representation"]
    assert log["loss"] == pytest.approx(total, rel=1e-6)
    assert "retain_loss/kl" not in log


def test_log_reports_every_retain_term_and_the_cross_entropy_also_without_weight(make_trainer):
    def logged(**settings):
        trainer = make_trainer(max_steps=2, logging_steps=2, **settings)
        trainer.train()
        return trainer.state.log_history[0]

    anchored = logged(lm_weight=0.0, kl_weight=1.5)
    total = 0.5 * anchored["retain_loss/representation"] + 1.5 * anchored["retain_loss/kl"]
    assert anchored["loss"] == pytest.approx(total, rel=1e-6)
    assert anchored["retain_loss/lm"] > 0 and anchored["retain_loss/kl"] > 0
    assert "retain_loss/representation" not in logged(representation_weight=0.0)


def test_the_anchor_is_a_mean_over_the_hidden_states_that_there_are(make_trainer):
    """The decoder of an encoder-decoder has other layers than `num_hidden_layers`, which counts the encoder's."""
    model = tiny_model("bart", encoder_layers=1, decoder_layers=2, dropout=0.0)
    start = copy.deepcopy(model)
    rows = Dataset.from_dict({"input_ids": [[5, 6, 7, 8]] * 8, "labels": [[5, 6, 7, 8]] * 8})
    settings = {"tamper_resistance_weight": 0.0, "lm_weight": 1.0, "representation_weight": 1.0, "max_steps": 2}
    trainer = make_trainer(
        model, data={"retain": rows}, adversaries=[Adversary("none", "forget", num_steps=0)], **settings
    )
    trainer.args.max_steps = 1
    trainer.train()
    stepped = copy.deepcopy(model)
    other = make_trainer(stepped, data={"retain": rows}, adversaries=trainer.adversaries, ref_model=start, **settings)
    other.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        now, then = (
            m.eval()(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states for m in (model, start)
        )
    by_hand = sum((a - b).norm(dim=-1).mean() for a, b in zip(now, then, strict=True)) / 3
    assert other.state.log_history[0]["retain_loss/representation"] == pytest.approx(by_hand.item(), rel=1e-4)


@pytest.mark.parametrize("loss", ["entropy", "negative_cross_entropy", "inverse_cross_entropy"])
def test_a_model_whose_vocabulary_is_that_of_its_text_part_trains(make_trainer, loss):
    model = tiny_model("gemma3")
    assert not hasattr(model.config, "vocab_size")
    make_trainer(model, tamper_resistance_loss=loss, max_steps=1).train()


@pytest.mark.parametrize("settings", [{}, {"retain_weight": 0.0}, ANCHORS["kl"]], ids=["l2", "without-retain", "kl"])
def test_the_loss_of_an_evaluation_is_a_mean_over_tokens(make_trainer, settings):
    rows = Dataset.from_list(sorted(tiny.tokenised()["retain"], key=lambda row: len(row["input_ids"])))
    found = [
        make_trainer(per_device_eval_batch_size=size, **settings).evaluate(rows)["eval_loss"] for size in (1, len(rows))
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-9) and found[0] > 0
