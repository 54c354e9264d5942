"""One description of an attacker: what it accepts, what it equals, and which rows it draws."""

import json
import statistics
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, asdict, replace
from string import Formatter

import pytest

from trl_tar import Adversary, sweep
from trl_tar.adversaries.choices import OBJECTIVES
from trl_tar.adversaries.data_order import draw_batches
from trl_tar.adversaries.options import options_of
from trl_tar.trainers.data_checks import RED_TEAM_ONLY


MIX = Adversary("mix", mixture={"forget": 0.5, "retain": 0.5}, learning_rate=1e-3)


def test_numbers_from_yaml_are_coerced():
    adversary = Adversary(
        "a", "forget", learning_rate="2e-6", num_steps="64", batch_size=8.0, lora_r="16", lora_target_modules=["q", "v"]
    )
    assert adversary == Adversary(
        "a", "forget", learning_rate=2e-6, num_steps=64, batch_size=8, lora_r=16, lora_target_modules=("q", "v")
    )
    assert isinstance(adversary.batch_size, int)
    assert Adversary("a", mixture={"forget": "1", "retain": 1}).mixture == {"forget": 1.0, "retain": 1.0}


def test_adversary_survives_json():
    for adversary in [MIX, Adversary("a", "forget", lora_r=4, lora_target_modules=("q", "v"), switch_at=0.4)]:
        assert Adversary(**json.loads(json.dumps(asdict(adversary)))) == adversary


def test_adversary_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        MIX.learning_rate = 1.0


def test_alpha_is_twice_the_rank_unless_given():
    assert Adversary("a", "forget", lora_r=8).lora_alpha == 16
    assert Adversary("a", "forget", lora_r=8, lora_alpha=8).lora_alpha == 8
    assert Adversary("a", "forget").lora_alpha is None


def test_kind_drops_name_weight_and_lengths():
    same = replace(MIX, name="other", weight=3.0, num_steps=500, micro_batch_size=2)
    assert same.kind() == MIX.kind()
    assert {"name", "weight", "num_steps", "micro_batch_size"}.isdisjoint(MIX.kind())
    for change in [{"learning_rate": 1e-4}, {"batch_size": 16}, {"lora_r": 4}, {"mixture": {"forget": 1.0}}]:
        assert replace(MIX, **change).kind() != MIX.kind()


LORA = Adversary("lora", "forget", lora_r=4)


@pytest.mark.parametrize(
    ("adversary", "change"),
    [
        (MIX, {"mixture": {"retain": 1, "forget": 1}}),
        (Adversary("m", mixture={"a": 1, "b": 2}), {"mixture": {"a": 0.1, "b": 0.2}}),
        (MIX, {"beta": 0.5}),
        (MIX, {"switch_at": 0.4}),
        (MIX, {"lora_alpha": 4, "lora_dropout": 0.1, "lora_target_modules": ("q",)}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.name,
)
def test_kind_drops_what_does_nothing_in_the_attack(adversary, change):
    assert replace(adversary, **change).kind() == adversary.kind()


@pytest.mark.parametrize(
    ("adversary", "change"),
    [
        (Adversary("d", "pairs", objective="dpo"), {"beta": 0.5}),
        (Adversary("f", "forget", first_dataset="retain"), {"switch_at": 0.4}),
        (LORA, {"lora_alpha": 4}),
        (LORA, {"lora_dropout": 0.1}),
        (LORA, {"lora_target_modules": ("q",)}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else value.name,
)
def test_kind_keeps_what_the_attack_uses(adversary, change):
    assert replace(adversary, **change).kind() != adversary.kind()


def test_equal_adversaries_hash_alike():
    reordered = replace(MIX, mixture={"retain": 0.5, "forget": 0.5})
    assert reordered == MIX
    assert hash(reordered) == hash(MIX)
    assert len({MIX, reordered, replace(MIX, learning_rate=1e-4), LORA}) == 3
    assert type(asdict(MIX)["mixture"]) is dict


def test_sweep_is_the_product_and_names_what_differs():
    found = sweep(MIX, learning_rate=[1e-4, 1e-3], lora_r=[None, 16])
    assert [a.name for a in found] == [
        "mix-learning_rate=0.0001-lora_r=None",
        "mix-learning_rate=0.0001-lora_r=16",
        "mix-learning_rate=0.001-lora_r=None",
        "mix-learning_rate=0.001-lora_r=16",
    ]
    assert [(a.learning_rate, a.lora_r, a.lora_alpha) for a in found] == [
        (1e-4, None, None),
        (1e-4, 16, 32),
        (1e-3, None, None),
        (1e-3, 16, 32),
    ]
    assert all(a.mixture == MIX.mixture for a in found)


def test_sweep_does_not_keep_the_alpha_of_another_rank():
    (found,) = sweep(Adversary("a", "forget", lora_r=8), lora_r=[4])
    assert found.lora_alpha == 8


@pytest.mark.parametrize(
    ("mixture", "batch_size", "rows"),
    [
        ({"a": 0.5, "b": 0.5}, 8, {"a": 4, "b": 4}),
        ({"a": 0.5, "b": 0.5}, 5, {"a": 3, "b": 2}),  # 2.5 and 2.5: the first named wins the tie
        ({"a": 1, "b": 2}, 5, {"a": 2, "b": 3}),  # 1.67 and 3.33
        ({"a": 2, "b": 1, "c": 1}, 8, {"a": 4, "b": 2, "c": 2}),
        ({"a": 0.2, "b": 0.8}, 32, {"a": 6, "b": 26}),  # 6.4 and 25.6
        ({"a": 1, "b": 1, "c": 1}, 32, {"a": 11, "b": 11, "c": 10}),
    ],
)
def test_mixture_rounds_by_largest_remainder(mixture, batch_size, rows):
    assert Adversary("a", mixture=mixture, batch_size=batch_size).rows_per_batch() == rows


def test_batches_are_drawn_without_replacement_in_each_pass():
    adversary = Adversary("a", "forget", num_steps=6, batch_size=4)
    drawn = [i for batch in draw_batches(adversary, {"forget": 12}, 0) for _, i in batch]
    assert sorted(drawn[:12]) == sorted(drawn[12:]) == list(range(12))
    assert drawn[:12] != drawn[12:]  # shuffled anew


def test_a_remainder_smaller_than_a_batch_is_dropped():
    adversary = Adversary("a", "forget", num_steps=50, batch_size=4)
    for batch in draw_batches(adversary, {"forget": 10}, 0):
        assert len(set(batch)) == 4


def test_a_data_set_of_exactly_one_batch_is_drawn_whole():
    adversary = Adversary("a", "forget", num_steps=5, batch_size=4)
    for batch in draw_batches(adversary, {"forget": 4}, 0):
        assert {i for _, i in batch} == {0, 1, 2, 3}


def test_same_seed_same_rows_and_a_longer_attack_starts_alike():
    short, long = (Adversary("a", mixture={"x": 1, "y": 2}, num_steps=n, batch_size=3) for n in (4, 9))
    sizes = {"x": 7, "y": 11}
    rows = list(draw_batches(short, sizes, "seed"))
    assert rows == list(draw_batches(short, sizes, "seed"))
    assert rows != list(draw_batches(short, sizes, "other seed"))
    assert list(draw_batches(long, sizes, "seed"))[:4] == rows


def test_every_batch_of_a_mixture_has_the_shares():
    adversary = Adversary("a", mixture={"x": 1, "y": 3}, num_steps=10, batch_size=8)
    for batch in draw_batches(adversary, {"x": 5, "y": 9}, 0):
        assert Counter(name for name, _ in batch) == {"x": 2, "y": 6}


@pytest.mark.parametrize(("switch_at", "retain_steps"), [(0.0, 0), (0.4, 4), (0.49, 4), (1.0, 10)])
def test_switch_is_the_floor_of_its_share_of_the_steps(switch_at, retain_steps):
    adversary = Adversary("a", "forget", first_dataset="retain", switch_at=switch_at, num_steps=10)
    names = [batch[0][0] for batch in draw_batches(adversary, {"forget": 9, "retain": 9}, 0)]
    assert names == ["retain"] * retain_steps + ["forget"] * (10 - retain_steps)


def test_beta_switch_has_the_mean_of_beta_6_3():
    adversary = Adversary("a", "forget", first_dataset="retain", num_steps=64, batch_size=1)
    switches = [
        sum(batch[0][0] == "retain" for batch in draw_batches(adversary, {"forget": 9, "retain": 9}, seed))
        for seed in range(300)
    ]
    # mean 64 · 6/9 less half a step for the floor = 42.2; standard deviation 64 · 0.149 = 9.5, of the mean 0.55
    assert abs(statistics.mean(switches) - 42.2) < 4 * 0.55
    assert 7 < statistics.stdev(switches) < 12


def test_no_steps_draw_nothing():
    assert list(draw_batches(Adversary("a", "forget", num_steps=0), {"forget": 9}, 0)) == []


def test_an_adversary_is_described_without_torch():
    code = "import sys; import trl_tar.adversaries.from_yaml, trl_tar.adversaries.in_words; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_field_has_an_option_and_its_words_are_fields():
    for name, option in options_of(Adversary).items():
        choices = [choice.words for choice in option.choices.values()]
        for text in filter(None, [option.words, option.elsewhere, *choices]):
            named = {field for _, field, _, _ in Formatter().parse(text) if field is not None}
            assert named <= set(options_of(Adversary)), name


def test_what_only_the_red_team_does_is_said_at_the_field():
    assert RED_TEAM_ONLY == (
        "quantization",
        "use_dora",
        "num_virtual_tokens",
        "edit",
        "prompt_template",
        "factors",
        "pure_bf16",
        "custom",
        "options",
        "after",
    )
    assert [name for name, row in OBJECTIVES.items() if not row.in_training] == ["grpo", "distillation"]
