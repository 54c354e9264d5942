"""An adversary that cannot be simulated or made is refused by one sentence that names the field."""

import pytest
from support import tiny
from support.sentences import one_sentence

from trl_tar import Adversary, sweep


GOOD = {"dataset": "forget", **tiny.ATTACK}
# fields of an adversary → what the message must name
BAD_ADVERSARIES = [
    ({"objective": "ppo"}, ["objective='ppo'", "'sft'", "'dpo'", "'grpo'"]),
    ({"optimizer": "lion"}, ["optimizer='lion'", "'adamw'"]),
    ({"lr_scheduler": "linear"}, ["lr_scheduler='linear'", "'cosine'"]),
    ({"learning_rate": "fast"}, ["learning_rate='fast'", "a number"]),
    ({"learning_rate": float("nan")}, ["learning_rate=nan", "finite"]),
    ({"learning_rate": "nan"}, ["learning_rate=nan", "finite"]),
    ({"learning_rate": 0}, ["learning_rate=0.0", "above 0"]),
    ({"learning_rate": float("inf")}, ["learning_rate=inf", "finite"]),
    ({"learning_rate": True}, ["learning_rate=True", "a number"]),
    ({"num_steps": 2.5}, ["num_steps=2.5", "a whole number"]),
    ({"num_steps": "2.5"}, ["num_steps='2.5'", "a whole number"]),
    ({"num_steps": float("nan")}, ["num_steps=nan", "a whole number"]),
    ({"num_steps": float("inf")}, ["num_steps=inf", "a whole number"]),
    ({"num_steps": 10**400}, ["num_steps=1000", "a whole number"]),
    ({"dataset": None, "mixture": {"forget": 10**400}}, ["mixture=", "number"]),
    ({"num_steps": -1}, ["num_steps=-1", "at least 0"]),
    ({"batch_size": 0}, ["batch_size=0", "at least 1"]),
    ({"micro_batch_size": 0}, ["micro_batch_size=0", "at least 1"]),
    ({"lora_r": 0}, ["lora_r=0", "at least 1"]),
    ({"lora_alpha": 0, "lora_r": 2}, ["lora_alpha=0", "at least 1"]),
    ({"lora_dropout": 1.0, "lora_r": 2}, ["lora_dropout=1.0", "below 1"]),
    ({"quantization": "int3", "lora_r": 2}, ["quantization='int3'", "nf4"]),
    ({"quantization": "nf4"}, ["nf4", "lora_r"]),
    ({"dataset": None}, ["dataset=None", "mixture=None"]),
    ({"mixture": {"forget": 1.0}}, ["dataset='forget'", "exactly one"]),
    ({"dataset": None, "mixture": {}}, ["mixture={}", "above 0"]),
    ({"dataset": None, "mixture": {"forget": 1, "retain": 0}}, ["mixture=", "above 0"]),
    ({"dataset": None, "mixture": {"forget": 1, "retain": float("nan")}}, ["mixture=", "above 0"]),
    ({"dataset": None, "mixture": {"forget": 1, "retain": "much"}}, ["mixture=", "number"]),
    ({"dataset": None, "mixture": {"forget": 1, "retain": 99}}, ["mixture=", "batch_size=4"]),
    ({"dataset": None, "mixture": {"forget": 1}, "first_dataset": "retain"}, ["mixture", "first_dataset"]),
    ({"first_dataset": "retain", "switch_at": 1.5}, ["switch_at=1.5", "[0, 1]"]),
    ({"first_dataset": "retain", "switch_at": "late"}, ["switch_at='late'"]),
    ({"momentum": 0.9}, ["momentum", "optimizer='adamw'", "sgd"]),
    ({"nesterov": True, "optimizer": "sgd"}, ["nesterov", "momentum"]),
    ({"warmup_steps": 2}, ["warmup_steps=2", "constant_with_warmup"]),
    ({"weight": 0}, ["weight=0.0", "above 0"]),
    ({"weight_decay": -0.1}, ["weight_decay=-0.1", "at least 0"]),
    ({"role": "honest"}, ["role='honest'", "'attack', 'benign'"]),
    ({"role": "benign", "num_steps": 0}, ["role='benign'", "takes steps"]),
    ({"role": "benign", "objective": "dpo"}, ["role='benign'", "objective='sft'"]),
    ({"role": "benign", "dataset": None, "mixture": {"forget": 1}}, ["role='benign'", "dataset alone"]),
    ({"role": "benign", "first_dataset": "retain"}, ["role='benign'", "dataset alone"]),
    ({"name": ""}, ["name=''", "non-empty"]),
]


@pytest.mark.parametrize(("fields", "wanted"), BAD_ADVERSARIES, ids=[str(fields) for fields, _ in BAD_ADVERSARIES])
def test_adversary_is_refused_by_one_sentence(fields, wanted):
    with pytest.raises(ValueError) as error:
        Adversary(**{"name": "a", **GOOD, **fields})
    message = one_sentence(error)
    assert all(words in message for words in wanted), message


def test_sweep_over_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="'learning_rat'.*spelling") as error:
        sweep(Adversary("a", **GOOD), learning_rat=[1e-3])
    one_sentence(error)


@pytest.mark.parametrize("values", [1e-3, "1e-3"])
def test_sweep_over_a_single_value_is_refused(values):
    with pytest.raises(ValueError, match="learning_rate=.*list") as error:
        sweep(Adversary("a", **GOOD), learning_rate=values)
    one_sentence(error)


@pytest.mark.parametrize(
    "name", ["learning_rate", "num_steps", "batch_size", "weight", "beta", "warmup_steps", "switch_at", "max_grad_norm"]
)
def test_a_number_that_an_empty_yaml_value_took_away_is_one_sentence(name):
    with pytest.raises(ValueError, match=f"Adversary 'a' has {name}=None. Give {name} as a"):
        Adversary("a", "forget", **{name: None})
