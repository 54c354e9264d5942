"""Named settings: all of the method, and over the defaults, but below what is given."""

import dataclasses
import sys

import pytest
import yaml
from support import tiny

from trl_tar import Adversary, TARConfig
from trl_tar.pipeline.arguments import RecipeArguments
from trl_tar.pipeline.steps import run
from trl_tar.trainers.presets import PRESETS, preset_settings


def test_every_preset_sets_the_same_fields_of_the_configuration():
    names = {field.name for field in dataclasses.fields(TARConfig)}
    assert {frozenset(settings) for settings in PRESETS.values()} == {frozenset(PRESETS["paper"])}
    assert set(PRESETS["paper"]) <= names


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_over_the_defaults_and_below_what_is_given(tmp_path, name):
    common = {"use_cpu": True, "bf16": False}
    args = TARConfig.from_preset(name, str(tmp_path), tamper_resistance_weight=7.0, **common)
    args.check()
    assert args.output_dir == str(tmp_path) and args.tamper_resistance_weight == 7.0
    expected = {**PRESETS[name], "tamper_resistance_weight": 7.0}
    assert {field: getattr(args, field) for field in expected} == expected


def test_an_unknown_preset_is_one_sentence():
    with pytest.raises(ValueError) as error:
        TARConfig.from_preset("papers")
    assert str(error.value) == "There is no preset 'papers'. Use one of 'paper', 'released', 'continued'."


def test_a_preset_is_not_changed_by_who_reads_it():
    preset_settings("paper")["lm_weight"] = 5.0
    assert preset_settings("paper")["lm_weight"] == 1.0


def parsed(tmp_path, monkeypatch, config: dict, *arguments: str) -> TARConfig:
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path), "use_cpu": True, "bf16": False, **config}))
    monkeypatch.setattr(sys, "argv", ["recipe.py", "--config", str(file), *arguments])
    found = []
    run(lambda args, tar: found.append(tar), RecipeArguments, TARConfig)
    return found[0]


def test_what_a_recipe_gives_itself_wins_over_its_preset(tmp_path, monkeypatch):
    config = {"preset": "continued", "kl_weight": 2.0}
    tar = parsed(tmp_path, monkeypatch, config, "--representation_weight", "3.0")
    assert (tar.kl_weight, tar.representation_weight) == (2.0, 3.0)
    assert (tar.lm_weight, tar.representation_loss, tar.max_grad_norm) == (0.0, "relative", 1.0)
    by_name = parsed(tmp_path, monkeypatch, config, "--preset", "paper")
    assert (by_name.kl_weight, by_name.representation_loss) == (2.0, "l2_squared")
    without = parsed(tmp_path, monkeypatch, {"kl_weight": 2.0})
    assert (without.kl_weight, without.representation_loss) == (2.0, "l2")


def test_an_unknown_preset_ends_a_recipe_with_one_line(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(tmp_path, monkeypatch, {"preset": "papers"})
    assert ended.value.code == 2
    assert "recipe.py: There is no preset 'papers'. Use one of" in capsys.readouterr().err


@pytest.mark.parametrize("name", PRESETS)
def test_a_model_trains_with_every_preset(make_trainer, name):
    settings = {field: value for field, value in PRESETS[name].items() if field not in tiny.SETTINGS}
    adversary = Adversary("forget", "forget", **{**tiny.ATTACK, "num_steps": 16})
    make_trainer(adversaries=[adversary], max_steps=1, **settings).train()
