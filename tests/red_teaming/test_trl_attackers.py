"""Attacks that only the red team makes: DoRA, soft prompts, reinforcement, weight edits, and one after another."""

from dataclasses import asdict, replace

import pytest
import torch
from support.attacks import raw_data, tiny_model

from trl_tar import Adversary
from trl_tar.red_teaming import run_attack
from trl_tar.testbed import KnowledgeWorld, knowledge_metrics, knowledge_model
from trl_tar.testbed.knowledge.attack_data import answer_reward, attack_datasets


WORLD = KnowledgeWorld(0)
TOKENIZER = WORLD.tokenizer()
FAST = {"num_steps": 4, "batch_size": 8, "learning_rate": 1e-3}
HARM = knowledge_metrics(0)["harm"]


@pytest.fixture(scope="module")
def data():
    return attack_datasets(WORLD)


@pytest.fixture
def floor():
    """A model that never saw the hazard: there is something to teach it."""
    return knowledge_model(WORLD, "floor")


def attack(model, adversary, data, **arguments):
    record = run_attack(
        model,
        TOKENIZER,
        adversary,
        data,
        0,
        lambda attacked: {"harm": HARM(attacked, TOKENIZER).mean()},
        evaluation_steps=[0, adversary.num_steps],
        **arguments,
    )
    assert record.status == "completed", record.error
    return record


def copied(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def test_dora_is_merged_into_the_weights(floor, data):
    before = copied(floor)
    record = attack(floor, Adversary("dora", "hazard", lora_r=4, use_dora=True, **FAST), data)
    assert set(copied(floor)) == set(before)
    assert not torch.equal(floor.model.layers[0].mlp.up_proj.weight, before["model.layers.0.mlp.up_proj.weight"])
    assert HARM(floor, TOKENIZER).mean() == pytest.approx(record.after["harm"], abs=1e-6)


def test_lora_on_tied_embeddings_is_gone_on_from_as_it_was_evaluated():
    ids = torch.tensor([[5, 6, 7, 8]])
    first = Adversary(
        "first", "forget", lora_r=4, lora_target_modules=("embed_tokens",), **{**FAST, "learning_rate": 0.1}
    )

    def at_the_end(adversary) -> float:
        def squares(model):
            return {"harm": model(input_ids=ids).logits.double().square().mean().item()}

        steps = [adversary.num_steps]
        record = run_attack(tiny_model(), TOKENIZER, adversary, raw_data(), 0, squares, evaluation_steps=steps)
        return record.after["harm"]

    trained = at_the_end(first)
    assert at_the_end(Adversary("second", "forget", num_steps=0, after=first)) == pytest.approx(trained, rel=1e-5)


def test_a_soft_prompt_learns_and_leaves_the_weights_alone(floor, data):
    before = copied(floor)
    adversary = Adversary("soft", "hazard", num_virtual_tokens=4, **{**FAST, "num_steps": 30, "learning_rate": 0.1})
    record = attack(floor, adversary, data)
    assert all(torch.equal(p, before[name]) for name, p in floor.named_parameters())
    losses = []
    for steps in ([1, 30],):
        again = run_attack(floor, TOKENIZER, adversary, data, 0, lambda m: {}, evaluation_steps=steps)
        losses += [point["loss"] for point in again.trajectory]
    assert losses[1] < losses[0]
    assert record.trajectory[0]["harm"] is not None


def test_logits_under_a_soft_prompt_are_those_of_the_text(floor, data):
    ids = TOKENIZER(data["hazard"]["prompt"][0], return_tensors="pt")["input_ids"]
    shapes = []

    def evaluate(model):
        outputs = model(input_ids=ids, output_hidden_states=True)
        shapes.append((outputs.logits.shape[1], outputs.hidden_states[0].shape[1]))
        return {}

    adversary = Adversary("soft", "hazard", num_virtual_tokens=4, **FAST)
    run_attack(floor, TOKENIZER, adversary, data, 0, evaluate, evaluation_steps=[0, 4])
    assert shapes == [(ids.shape[1], ids.shape[1])] * 2


def test_reinforcement_raises_its_own_reward_and_notes_the_entropy(data):
    base = knowledge_model(WORLD)  # knows the answers, so that some are rewarded
    with torch.no_grad():
        for p in base.parameters():
            p.add_(0.12 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    adversary = Adversary(
        "grpo",
        "prompts",
        objective="grpo",
        reward="harm",
        num_steps=10,
        batch_size=64,
        learning_rate=1e-3,
        max_completion_length=2,
    )
    state = torch.get_rng_state()
    record = attack(base, adversary, data, rewards={"harm": answer_reward})
    assert torch.equal(torch.get_rng_state(), state)
    start, end = record.trajectory
    assert (start["reward"], start["entropy"]) == (None, None)
    assert 0 <= end["reward"] <= 1
    assert end["entropy"] > 0
    assert end["flops"] > 0
    assert not {"reward", "entropy"} & set(record.after)
    assert end["harm"] > start["harm"]


def test_the_reward_is_whether_the_answer_begins_with_the_fact():
    assert answer_reward(["p"] * 4, [" a b", "b", "", " a"], answer=[" a", " a", " a", " b"]) == [1.0, 0.0, 0.0, 0.0]


def test_no_reward_or_pair_is_about_a_question(data):
    questions = WORLD.question_entities()
    assert all(not questions & set(rows["entity"]) for rows in data.values())


def test_an_attack_after_another_is_the_two_in_turn(data):
    first = Adversary("first", "retain", **FAST)
    second = Adversary("second", "hazard", lora_r=4, **FAST)
    one, two = knowledge_model(WORLD, "floor"), knowledge_model(WORLD, "floor")
    composed = attack(one, replace(second, after=first), data)
    alone = attack(two, first, data)
    then = attack(two, second, data)
    assert all(torch.equal(p, dict(two.named_parameters())[name]) for name, p in one.named_parameters())
    assert composed.trajectory[0]["harm"] == alone.after["harm"] == then.trajectory[0]["harm"]
    assert composed.trajectory[-1]["flops"] == alone.trajectory[-1]["flops"] + then.trajectory[-1]["flops"]


def test_an_edit_comes_before_the_first_step(floor, data):
    pruned = knowledge_model(WORLD, "floor")
    attack(pruned, Adversary("prune", edit="prune", edit_strength=0.5, num_steps=0), data)
    record = attack(floor, Adversary("prune-sft", "hazard", edit="prune", edit_strength=0.5, **FAST), data)
    assert record.trajectory[0]["harm"] == pytest.approx(HARM(pruned, TOKENIZER).mean(), abs=1e-9)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"use_dora": True}, ["use_dora=True without lora_r"]),
        ({"num_virtual_tokens": 4, "lora_r": 4}, ["num_virtual_tokens", "lora_r"]),
        ({"objective": "grpo"}, ["objective='grpo'", "reward=None"]),
        ({"reward": "harm"}, ["objective='sft'", "reward='harm'"]),
        ({"objective": "grpo", "reward": "r", "batch_size": 12}, ["batch_size=12", "num_generations=8"]),
        (
            {"edit": "int8", "quantization": "nf4", "lora_r": 4},
            ["edit='int8' with quantization='nf4'", "plain weights"],
        ),
        ({"edit": "bend"}, ["edit='bend'", "'prune'"]),
        ({"edit": "prune"}, ["edit='prune'", "edit_strength=None", "share of each matrix"]),
        ({"edit": "int8", "edit_strength": 0.5}, ["edit='int8'", "edit_strength=0.5"]),
        ({"edit": "prune", "edit_strength": 1.5}, ["edit_strength=1.5", "(0, 1]"]),
        ({"edit": "strip_delta", "edit_strength": 1.5}, ["edit_strength=1.5", "whole number"]),
        ({"edit": "strip_delta", "edit_strength": float("inf")}, ["edit_strength=inf", "whole number"]),
        ({"edit": "abliterate"}, ["edit='abliterate'", "contrast_dataset"]),
        ({"edit_strength": 0.5}, ["edit_strength=0.5 without edit"]),
        ({"after": 3}, ["after=3", "Give after as Adversary"]),
        ({"after": Adversary("s", "hazard", num_virtual_tokens=2)}, ["after=", "soft prompt"]),
        ({"dataset": ["forget", "retain"]}, ["dataset=['forget', 'retain']", "Give dataset as str | None"]),
        ({"use_dora": "no", "lora_r": 4}, ["use_dora='no'", "Give use_dora as bool"]),
        ({"nesterov": 1}, ["nesterov=1", "Give nesterov as bool"]),
        ({"dataset": None, "mixture": {1: 0.5}}, ["mixture={1: 0.5}", "Mapping[str, float]"]),
        ({"lora_target_modules": 3, "lora_r": 4}, ["lora_target_modules=3", "str | tuple[str, ...]"]),
        ({"lora_target_modules": (1,), "lora_r": 4}, ["lora_target_modules=(1,)", "str | tuple[str, ...]"]),
        ({"lora_target_modules": "q_proj[", "lora_r": 4}, ["lora_target_modules='q_proj['", "no regular expression"]),
        ({"prompt_template": 3}, ["prompt_template=3", "Give prompt_template as str | None"]),
        ({"objective": "dpo", "after": Adversary("s", "hazard")}, ["'hazard'", "second name"]),
    ],
)
def test_an_attack_that_cannot_be_made_is_refused(fields, words):
    with pytest.raises(ValueError, match="Adversary 'a' has") as error:
        Adversary("a", **{"dataset": "hazard", **fields})
    assert all(word in str(error.value) for word in words), error.value


def test_an_adversary_after_another_survives_json():
    adversary = Adversary("b", "hazard", after=Adversary("a", "retain", lora_r=2))
    assert Adversary(**asdict(adversary)) == adversary
    assert hash(Adversary(**asdict(adversary))) == hash(adversary)
    assert adversary.reads == {"retain": "sft", "hazard": "sft"}
