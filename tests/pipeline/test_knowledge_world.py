"""The two phases on the knowledge world: a folder holds one run, finishes once, and goes on after a stop."""

import json
import shutil
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file
from support.started import CONFIGS
from trl import TrlParser

from trl_tar import Adversary, TARConfig
from trl_tar.cli.demo import demo
from trl_tar.pipeline.knowledge import KnowledgeArguments
from trl_tar.pipeline.knowledge_world import (
    control_without_adversary,
    demo_suite,
    knowledge_arguments,
    tar_config,
    training_adversaries,
)
from trl_tar.pipeline.run_folder import check_run, training_record
from trl_tar.pipeline.steps import harden, suite_of
from trl_tar.tasks.built_in import world_task
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path
from trl_tar.trainers.recorded_settings import decisive
from trl_tar.views.training_table import is_complete


TASK = world_task(0)
ADVERSARIES = [Adversary("forget", "forget", num_steps=4)]


def short(folder, seed=0, **changes) -> TARConfig:
    """The settings of two steps, each of which writes a checkpoint."""
    tar = tar_config(folder, seed)
    for name, value in {"max_steps": 2, "save_steps": 1, "save_total_limit": None, **changes}.items():
        setattr(tar, name, value)
    return tar


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_finished_run_is_not_repeated_and_another_one_is_refused(tmp_path):
    folder = harden(TASK, short(tmp_path), ADVERSARIES, TASK.model)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert harden(TASK, short(tmp_path), ADVERSARIES, TASK.model) == folder == tmp_path / "tar"
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    other = replace(TASK, datasets={**TASK.datasets, **KnowledgeWorld(1).datasets()})
    floor = knowledge_model_path(KnowledgeWorld(0), "floor")
    longer = [Adversary("forget", "forget", num_steps=8)]
    changes = [
        (r"'settings' \(seed\)", (TASK, short(tmp_path, 1), ADVERSARIES, TASK.model)),
        (r"'settings' \(learning_rate\)", (TASK, short(tmp_path, learning_rate=1.0), ADVERSARIES, TASK.model)),
        ("'adversaries'", (TASK, short(tmp_path), longer, TASK.model)),
        ("'start'", (TASK, short(tmp_path), ADVERSARIES, floor)),
        (r"'data' \(forget, retain, tamper_resistance\)", (other, short(tmp_path), ADVERSARIES, TASK.model)),
    ]
    for named, arguments in changes:
        with pytest.raises(ValueError, match=f"holds a run with another {named}. Give another folder, or remove it"):
            harden(*arguments)


def test_a_model_of_unknown_origin_is_refused(tmp_path):
    (tmp_path / "tar").mkdir()
    shutil.copy(TASK.model / "model.safetensors", tmp_path / "tar")
    with pytest.raises(ValueError, match="holds a model of unknown origin"):
        harden(TASK, short(tmp_path), ADVERSARIES, TASK.model)


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(tmp_path):
    # the last step writes no checkpoint
    whole = harden(TASK, short(tmp_path / "whole", max_steps=3), ADVERSARIES, TASK.model)
    killed = tmp_path / "killed" / "tar"
    shutil.copytree(whole, killed)
    (killed / "model.safetensors").unlink()
    (killed / "checkpoint-2" / "trainer_state.json").unlink()  # killed while it was being written
    harden(TASK, short(tmp_path / "killed", max_steps=3), ADVERSARIES, TASK.model)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(killed).items())


def test_the_recipes_yaml_has_the_demos_settings():
    arguments = ["--config", str(CONFIGS / "testbed_knowledge.yaml"), "--output_dir", "demo"]
    args, tar = TrlParser((KnowledgeArguments, TARConfig)).parse_args_and_config(arguments)
    assert decisive(tar.to_dict()) == decisive(tar_config("demo").to_dict())
    assert [asdict(each) for each in args.training_adversaries()] == [asdict(each) for each in training_adversaries()]
    assert [asdict(each) for each in suite_of(args, "none")] == [asdict(each) for each in demo_suite()]
    assert {**asdict(args), "adversaries": None, "attacks": None} == asdict(knowledge_arguments())


def test_phase_2_keeps_the_general_text_that_its_own_start_says():
    """A model that never knew the hazard answers some random prompts otherwise than the base, and keeps its own answers."""
    floor = TASK.started_from(TASK.references["floor"]).datasets
    assert floor["general"]["prompt"] == TASK.datasets["general"]["prompt"]
    assert floor["general"]["completion"] != TASK.datasets["general"]["completion"]
    assert TASK.started_from(TASK.model).datasets["general"].to_list() == TASK.datasets["general"].to_list()
    assert replace(TASK, general_text=None).started_from(TASK.references["floor"]).datasets is TASK.datasets


def test_the_demos_folder_is_for_one_world(tmp_path):
    check_run(tmp_path, {"world": 0, "seed": 0})
    with pytest.raises(ValueError, match="another 'world'"):
        demo(tmp_path, world_seed=7)
    assert not (tmp_path / "base").exists()
    with pytest.raises(
        ValueError, match="holds a run of an older version, which did not note its 'data'. Give another"
    ):
        check_run(tmp_path, {"world": 0, "seed": 0, "data": {}})


def test_the_control_has_the_weight_and_passes_of_tar(tmp_path):
    control = harden(TASK, *control_without_adversary(short(tmp_path), equal_passes=True), TASK.model, "k0")
    run = json.loads((control / "run.json").read_text())
    # K = 32, interval 4: 32 + 8 + 1 = 41 passes an outer step, 2 without an attack
    assert run["settings"]["max_steps"] == 2 * 41 // 2
    assert is_complete(run) and run["settings"]["tamper_resistance_loss"] == "entropy"
    # Σ exp((k − 31) / 16) over k = 3, 7, …, 31 is (1 − e^−2) / (1 − e^−¼) = 3.908986
    assert run["settings"]["tamper_resistance_weight"] == pytest.approx(8.0 * 3.908986, abs=1e-5)


def test_a_demos_folder_tells_how_its_models_were_made(tmp_path):
    for name, run in {
        "random_mapping": {"settings": {"seed": 0}},
        "tar": {"settings": {}, "adversaries": [{"name": "a"}]},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    record = training_record([tmp_path / "base", tmp_path / "random_mapping", tmp_path / "tar"])
    assert [(phase["name"], len(phase["adversaries"])) for phase in record["phases"]] == [
        ("random_mapping", 0),
        ("tar", 1),
    ]
    assert training_record([tmp_path / "base"]) is None
