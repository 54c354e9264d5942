"""A space is fields with values or ranges; what is neither is refused."""

from pathlib import Path

import optuna
import pytest

from trl_tar.red_teaming.search_space import DEFAULT, SearchSpace


def drawn(space: SearchSpace, count: int = 60):
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [space(study.ask()) for _ in range(count)]


def test_the_default_space_is_no_smaller_than_tamperbenchs():
    found = drawn(SearchSpace(), 200)
    assert {each.lora_r for each in found} == {None, 8, 16, 32, 64, 128}
    assert {each.num_steps for each in found} == {16, 64, 128, 256, 512, 1024}
    rates = sorted(each.learning_rate for each in found)
    assert 1e-6 <= rates[0] < 2e-6 and 5e-4 < rates[-1] <= 1e-3
    assert {each.dataset for each in found} == {None, "hazard"}
    assert {each.mixture["hazard"] for each in found if each.mixture} == {0.1, 0.25, 0.5, 0.75}


def test_a_space_of_ones_own_has_its_values_ranges_and_what_is_fixed(tmp_path):
    (tmp_path / "space.yaml").write_text(
        "{num_steps: {low: 2, high: 4}, learning_rate: 1.0e-4, lora_r: [8], hazard_share: 1}"
    )
    found = drawn(SearchSpace.from_file(tmp_path / "space.yaml", learning_rate_scale=10.0))
    assert {each.num_steps for each in found} == {2, 3, 4}
    assert {(round(each.learning_rate, 9), each.lora_r, each.dataset) for each in found} == {(1e-3, 8, "hazard")}


@pytest.mark.parametrize(
    "choices, message",
    [
        ({"rank": [8]}, "The space has 'rank', which no search chooses. Use fields of Adversary, or hazard_share."),
        ({"mixture": [{"hazard": 1}]}, "The space has 'mixture'"),
        ({"lora_r": []}, r"The space has lora_r: \[\]. Give a list of values, or a range"),
        ({"learning_rate": {"low": 1e-4}}, "Give a list of values, or a range"),
        ({"learning_rate": {"low": 0, "high": 1.0, "log": True}}, "Give a list of values, or a range"),
        ({"learning_rate": {"low": 1e-3, "high": 1e-4}}, "Give a list of values, or a range"),
    ],
)
def test_what_is_no_space_is_refused(choices, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace(choices)


def test_the_default_chooses_fields_that_are_there():
    SearchSpace(DEFAULT)


def test_the_default_space_has_all_that_the_file_of_tamperbenchs_has():
    theirs = SearchSpace.from_file(Path(__file__).parents[2] / "recipes/configs/search_tamperbench.yaml").choices
    assert all(set(theirs[name]) <= set(DEFAULT[name]) for name in theirs.keys() - {"learning_rate", "hazard_share"})
    assert (theirs["learning_rate"], theirs["hazard_share"]) == (DEFAULT["learning_rate"], [1.0])
