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
from trl_tar.fingerprints import origin, rows_sha256
from trl_tar.pipeline.knowledge import KnowledgeArguments
from trl_tar.pipeline.knowledge_world import (
    control_without_adversary,
    demo_suite,
    knowledge_arguments,
    tar_config,
    training_adversaries,
)
from trl_tar.pipeline.run_folder import check_run, training_record
from trl_tar.pipeline.steps import harden, suite_of, train_phases
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


def test_the_papers_way_is_a_recipe_of_its_own():
    arguments = ["--config", str(CONFIGS / "testbed_knowledge_paper.yaml")]
    args, tar = TrlParser((KnowledgeArguments, TARConfig)).parse_args_and_config(arguments)
    tar.check()
    assert (args.phases, args.reference, tar.steps_per_visit) == (["random_mapping", "tar"], "start", None)
    assert {a.num_steps for a in args.training_adversaries()} == {32}


@pytest.mark.parametrize(
    ("name", "method"),
    [("max_entropy", "max-entropy"), ("sim_npo", "SimNPO")],
)
def test_an_earlier_defence_is_phase_1_by_its_name(tmp_path, name, method):
    args = KnowledgeArguments(phases=[name, "tar"], safeguard_steps=1, safeguard_warmup_steps=0, attack_seeds=0)
    folder = args.defences[name].train(TASK, args, short(tmp_path), name)
    assert (folder, args.chosen_defences[0].words) == (tmp_path / name, method)
    assert json.loads((folder / "run.json").read_text())["settings"]["method"] == method
    start = load_file(f"{TASK.model}/model.safetensors")
    assert any(not torch.equal(value, start[key]) for key, value in weights(folder).items())


def anchored(task, folder, **changes) -> list[str | None]:
    """Runs the phases of one step each; returns what the anchors of the second compared with, by the record."""
    far = {
        "safeguard_steps": 1,
        "safeguard_learning_rate": 0.1,
        "safeguard_warmup_steps": 0,
    }  # so that its answers differ
    args = KnowledgeArguments(phases=["random_mapping", "tar", "repair"], repair_steps=1, **far, **changes)
    folders = train_phases(task, args, short(folder, max_steps=1), ADVERSARIES)
    assert [each.name for each in folders] == ["random_mapping", "tar", "repair"]
    return [json.loads((each / "run.json").read_text())["reference"] for each in folders]


@pytest.mark.slow
def test_anchors_compare_with_the_start_or_the_base_and_repair_with_the_base(tmp_path):
    base = origin(TASK.model)
    assert anchored(TASK, tmp_path / "start") == [None, None, base]
    assert anchored(TASK, tmp_path / "base", reference="base") == [None, base, base]
    kept = [json.loads((tmp_path / each / "tar" / "run.json").read_text())["data"] for each in ("start", "base")]
    assert kept[1]["general"] == rows_sha256(TASK.datasets["general"]) != kept[0]["general"]


def test_from_the_base_itself_no_second_reference_is_loaded(tmp_path):
    folder = harden(TASK, short(tmp_path, max_steps=1), ADVERSARIES, TASK.model, reference=TASK.model)
    assert json.loads((folder / "run.json").read_text())["reference"] is None


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


FRESH = {"steps_per_visit": None, "attack_length_threshold": None, "inner_weighting": "exponential"}


def test_the_control_has_the_weight_and_passes_of_tar(tmp_path):
    tar = short(tmp_path, tamper_resistance_weight=8.0, **FRESH)
    attacks = [Adversary("forget", "forget", num_steps=32)]
    control = harden(TASK, *control_without_adversary(tar, attacks, equal_passes=True), TASK.model, "k0")
    run = json.loads((control / "run.json").read_text())
    # K = 32, interval 4: 32 + 8 + 1 = 41 passes an outer step, 2 without an attack
    assert run["settings"]["max_steps"] == 2 * 41 // 2
    assert is_complete(run) and run["settings"]["tamper_resistance_loss"] == "entropy"
    # Σ exp((k − 31) / 16) over k = 3, 7, …, 31 is (1 − e^−2) / (1 − e^−¼) = 3.908986
    assert run["settings"]["tamper_resistance_weight"] == pytest.approx(8.0 * 3.908986, abs=1e-5)


def test_the_control_of_continued_attacks_has_a_visits_weight_and_passes(tmp_path):
    tar = short(tmp_path, max_steps=2000)
    assert (tar.steps_per_visit, tar.tamper_resistance_interval, tar.inner_weighting) == (8, 4, "uniform")
    attacks = [adversary for adversary in training_adversaries() if adversary.role == "attack"]
    equal_steps, (none,) = control_without_adversary(tar, attacks)
    equal_passes, _ = control_without_adversary(tar, attacks, equal_passes=True)
    # a visit of 8 steps: 8 + 2 + 1 = 11 passes an outer step, 2 without an attack; two weights of ½
    assert (equal_steps.max_steps, equal_passes.max_steps, none.num_steps) == (2000, 2000 * 11 // 2, 0)
    assert equal_steps.tamper_resistance_weight == pytest.approx(tar.tamper_resistance_weight)
    assert equal_steps.steps_per_visit is None and tar.steps_per_visit == 8
    two = short(tmp_path, max_steps=3, adversaries_per_step=2)
    several, _ = control_without_adversary(two, attacks, equal_passes=True)
    assert several.max_steps == 3 * (2 * 10 + 1) // 3
    # an honest user is judged by two losses: a visit in six makes it 11 + 2 / 6 passes
    users = [replace(attacks[0], weight=5.0), Adversary("benign", "benign_tasks", role="benign", num_steps=128)]
    with_users, _ = control_without_adversary(tar, users, equal_passes=True)
    assert with_users.max_steps == 2000 * 34 // 6
    # and has no L_TR
    assert with_users.tamper_resistance_weight == pytest.approx(tar.tamper_resistance_weight * 5 / 6)


def test_two_fifths_of_the_demos_attackers_are_lora():
    everybody = training_adversaries()
    adversaries = [a for a in everybody if a.role == "attack"]
    everywhere = [a for a in adversaries if a.lora_target_modules == "all-linear"]
    weights = {rank: sum(a.weight for a in everywhere if a.lora_r == rank) for rank in (None, 8, 32, 64)}
    total = sum(a.weight for a in adversaries)
    assert sum(a.weight for a in everybody) == pytest.approx(5 / 3 * total, rel=1e-4)  # two in five are honest users
    assert weights[None] / total == pytest.approx(3 / 5, abs=1e-4)
    assert [weights[rank] / total for rank in (8, 32, 64)] == pytest.approx([4 / 45] * 3, abs=1e-4)
    # the rest is on attention alone, 2 / 15


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
