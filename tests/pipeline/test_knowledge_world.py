"""The two phases on the knowledge world: a folder holds one run, finishes once, and goes on after a stop."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from trl_tar import Adversary
from trl_tar.cli.demo import demo
from trl_tar.pipeline.knowledge_world import control_without_adversary, harden
from trl_tar.pipeline.run_folder import check_run, training_record
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path
from trl_tar.views.training_table import is_complete


WORLD = KnowledgeWorld(0)
BASE = knowledge_model_path(WORLD)
SHORT = {
    "max_steps": 2,
    "save_steps": 1,
    "save_total_limit": None,
    "adversaries": [Adversary("forget", "forget", num_steps=4)],
}


def weights(folder):
    return load_file(folder / "model.safetensors")


def test_a_finished_run_is_not_repeated_and_another_one_is_refused(tmp_path):
    folder = harden(WORLD, BASE, tmp_path / "tar", **SHORT)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    assert harden(WORLD, BASE, folder, **SHORT) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    floor = knowledge_model_path(WORLD, "floor")
    changes = [
        ("'seed'", (WORLD, BASE), {"seed": 1}),
        (r"'settings' \(learning_rate\)", (WORLD, BASE), {"learning_rate": 1.0}),
        ("'adversaries'", (WORLD, BASE), {"adversaries": [Adversary("forget", "forget", num_steps=8)]}),
        ("'start_sha256'", (WORLD, floor), {}),
        ("'world'", (KnowledgeWorld(1), BASE), {}),
    ]
    for named, (world, start), change in changes:
        with pytest.raises(ValueError, match=f"holds a run with another {named}. Give another folder, or remove it"):
            harden(world, start, folder, **{**SHORT, **change})


def test_a_model_of_unknown_origin_is_refused(tmp_path):
    shutil.copy(BASE / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match="holds a model of unknown origin"):
        harden(WORLD, BASE, tmp_path, **SHORT)


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(tmp_path):
    settings = {**SHORT, "max_steps": 3}  # the last step writes no checkpoint
    whole = harden(WORLD, BASE, tmp_path / "whole", **settings)
    killed = tmp_path / "killed"
    shutil.copytree(whole, killed)
    (killed / "model.safetensors").unlink()
    (killed / "checkpoint-2" / "trainer_state.json").unlink()  # killed while it was being written
    harden(WORLD, BASE, killed, **settings)
    expected = weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights(killed).items())


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
    control = control_without_adversary(WORLD, BASE, tmp_path / "k0", max_steps=2, equal_passes=True)
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
