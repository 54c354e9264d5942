"""The ablation: what its variants differ in, that it resumes, and that its table says what the reports say."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.reports import harms, record, report
from support.started import CONFIGS
from trl import TrlParser

from trl_tar import Adversary, TARConfig
from trl_tar.evidence import ablation_variants
from trl_tar.evidence.ablation import Training, ablation, chosen, train
from trl_tar.evidence.ablation_report import report_on, rows_of
from trl_tar.evidence.ablation_variants import RECIPE, VARIANTS, differences, settings_of
from trl_tar.evidence.settings_log import FILE_NAME, note, noted, tried
from trl_tar.pipeline.knowledge import KnowledgeArguments
from trl_tar.pipeline.knowledge_world import training_adversaries
from trl_tar.report.report import Report
from trl_tar.trainers.recorded_settings import decisive


def settings(name: str):
    return settings_of(VARIANTS[name], 401, Path("ablation"))


def changed(name: str) -> dict:
    return differences(settings(name), settings(RECIPE.name))


def test_each_variant_differs_from_the_recipe_and_from_the_others():
    assert len({settings(name).sha256 for name in VARIANTS}) == len(VARIANTS)
    assert changed(RECIPE.name) == {"arguments": {}, "tar": {}, "adversaries": {}}


def test_an_ablation_of_one_thing_changes_that_alone():
    assert changed("kl_anchor") == {"arguments": {}, "tar": {"representation_weight": 0.0}, "adversaries": {}}
    assert changed("no_curriculum")["tar"] == {"attack_length_threshold": None}
    assert changed("with_cross_entropy")["tar"] == {"lm_weight": 1.0}
    longer = changed("longer_curriculum")
    assert longer["tar"] == {} and {a["num_steps"] for a in longer["adversaries"].values()} == {2048}
    fresh = changed("fresh_8")
    assert fresh["tar"] == {"steps_per_visit": None, "attack_length_threshold": None}
    assert {a.num_steps for a in settings("fresh_8").adversaries} == {8}
    assert {a.role for a in settings(RECIPE.name).adversaries} == {"attack", "benign"}
    assert {a.role for a in settings("without_honest_users").adversaries} == {"attack"}


def test_equal_passes_are_equal(monkeypatch):
    def tar_config(folder, seed):
        tar = own(folder, seed)
        tar.max_steps = 2000
        return tar

    own = ablation_variants.tar_config
    monkeypatch.setattr(ablation_variants, "tar_config", tar_config)
    monkeypatch.setattr(ablation_variants, "training_adversaries", lambda: training_adversaries()[:2])
    passes = {name: settings(name).passes for name in VARIANTS}
    # 2,000 steps of 8 of an attack, 2 judgements and 1 for D_retain
    assert passes["continued"] == passes["k0_equal_passes"] == passes["fresh_8"] == 22000
    # 32 + 8 + 1 a step; phase 1 has 600 steps of 2
    assert passes["fresh_32"] == 22000 // 41 * 41 == 21976
    assert passes["phase_1_first"] == 1200 + (22000 - 1200) // 11 * 11
    assert passes["paper"] == 1200 + 300 * 41
    assert passes["paper_equal_passes"] == 1200 + (22000 - 1200) // 41 * 41
    assert passes["k0_equal_steps"] == 4000


def test_the_papers_variant_is_the_papers_recipe():
    arguments = ["--config", str(CONFIGS / "testbed_knowledge_paper.yaml"), "--world", "401"]
    args, tar = TrlParser((KnowledgeArguments, TARConfig)).parse_args_and_config(arguments)
    own = settings("paper")
    assert decisive(tar.to_dict()) == own.decisive["tar"]
    assert [asdict(a) for a in args.training_adversaries()] == [asdict(a) for a in own.adversaries]
    assert {**asdict(args), "adversaries": None, "attacks": None, "attack_workers": 1} == asdict(own.args)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="There is no variant 'fresh_9'. Use 'continued', "):
        chosen(["continued", "fresh_9"])
    assert chosen(["fresh_8", "continued"]) == ["continued", "fresh_8"]


# --- the table from recorded reports ----------------------------------------------------------------------------------


def recorded(output: Path) -> Path:
    """A folder with reports of three variants on two worlds, and the log of their trainings."""
    weak = report(record(harms((0.8, 0.9), (0.9, 0.9))))
    for place, found in {
        "world-402/continued-seed-0": report(),
        "world-401/fresh_8-seed-0": weak,
        "world-401/continued-seed-0": report(),
    }.items():
        (output / place).mkdir(parents=True)
        found.save(output / place)
    (output / "world-401" / "random_mapping-seed-0").mkdir()
    for event in ("started", "started", "finished"):
        rest = {"passes": 22000, "changes": changed("fresh_8")} if event == "started" else {"minutes": 7.25}
        job = {"variant": "fresh_8", "world": 401, "seed": 0, "settings_sha256": "a"}
        note(output, event=event, **job, **rest)
    return output


def test_the_table_says_what_the_reports_say(tmp_path):
    rows = report_on(recorded(tmp_path))
    assert [(row["world"], row["variant"]) for row in rows] == [
        (401, "continued"),
        (401, "fresh_8"),
        (402, "continued"),
    ]
    found = Report.load(tmp_path / "world-401" / "fresh_8-seed-0")
    assert rows[1]["strongest"] == found.summary["worst_recovery"] and rows[1]["recovery"]["mean"] > 0.5
    assert rows[1]["capability"] == pytest.approx(0.95 / 0.96) and rows[1]["retain_nll_gain"] == pytest.approx(0.1)
    assert rows[1]["verdict"] == "not resistant" and "broken_attacks" in rows[1]["failed"]
    assert (rows[1]["passes"], rows[1]["minutes"], rows[1]["resumed"]) == (22000, 7.25, True)
    text = (tmp_path / "table.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| 401 | fresh, K = 8 |"))
    assert line.split(" | ")[2:4] == ["22,000", "≥ 7.2"]
    assert "| 0.99 | 0.98 | +0.10 | 0.95 [0.90, 1.00] | 0.99 [0.97, 1.01] |" in line
    heads, dashes, *cells = [each for each in text.splitlines() if each.startswith("|")]
    assert {each.count("|") for each in (heads, dashes, *cells)} == {heads.count("|")} and len(cells) == 3
    assert json.loads((tmp_path / "ablation.json").read_text()) == rows
    assert sorted(file.name for file in (tmp_path / "figures").iterdir()) == [
        "frontier-world-401.png",
        "frontier-world-402.png",
    ]


def test_only_report_prints_tables_and_log_and_trains_nothing(tmp_path, capsys):
    recorded(tmp_path)
    before = sorted(tmp_path.rglob("*.safetensors"))
    ablation(output=tmp_path, only_report=True)
    printed = capsys.readouterr().out
    assert {"continued", "tested", "strongest", "fails"} <= set(printed.split())
    assert "…" not in printed  # no word of a heading or a cell is cut
    assert "World 401: what came back" in printed and "World 402: what was kept" in printed
    assert "Settings tried: 1, in 1 trainings on 1 worlds, of which 1 finished." in " ".join(printed.split())
    assert sorted(tmp_path.rglob("*.safetensors")) == before == []
    with pytest.raises(ValueError, match="has no variant with a report. Run it without --only-report first."):
        ablation(output=tmp_path / "empty", only_report=True)


def test_settings_that_were_tried_and_given_up_are_still_counted(tmp_path):
    for sha256, world in [("a", 401), ("a", 402), ("b", 401), ("b", 401)]:
        job = {"variant": "no_curriculum", "world": world, "seed": 0, "settings_sha256": sha256}
        note(tmp_path, event="started", **job, passes=22000, changes=changed("no_curriculum"))
    text = tried(noted(tmp_path))
    assert "Settings tried: 2, in 3 trainings on 2 worlds, of which 0 finished." in text
    assert text.count("- no_curriculum (22,000 passes): attack_length_threshold=None") == 2


# --- training ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_steps(monkeypatch):
    """Gives every training two steps, and the red team one attack of two steps with one seed."""
    own, arguments = ablation_variants.tar_config, ablation_variants.knowledge_arguments

    def tar_config(folder, seed=0):
        tar = own(folder, seed)
        tar.max_steps, tar.per_device_train_batch_size = 2, 8
        return tar

    monkeypatch.setattr(ablation_variants, "tar_config", tar_config)
    monkeypatch.setattr(ablation_variants, "knowledge_arguments", lambda *a: replace(arguments(*a), attack_seeds=1))
    attacks = [Adversary("forget", "attacker", num_steps=2, batch_size=8)]
    monkeypatch.setattr("trl_tar.evidence.ablation.demo_suite", lambda world: attacks)


@pytest.mark.slow
def test_a_training_is_noted_once_and_goes_on_where_it_stopped(tmp_path, tiny_steps):
    training = Training(tmp_path, 0, 0, "k0_equal_steps")
    train(training)
    train(training)  # finished: nothing is done and nothing noted
    assert [line["event"] for line in noted(tmp_path)] == ["started", "finished"]
    started = noted(tmp_path)[0]
    assert started["passes"] == 4 and started["changes"]["tar"]["steps_per_visit"] is None
    written = (training.folder / "model.safetensors").read_bytes()
    (training.folder / "model.safetensors").unlink()
    (training.folder / "log_history.json").unlink()
    train(training)  # killed before its end: it is started again
    assert [line["event"] for line in noted(tmp_path)] == ["started", "finished"] * 2
    assert (training.folder / "model.safetensors").read_bytes() == written
    assert rows_of(tmp_path) == [] and (tmp_path / FILE_NAME).is_file()


@pytest.mark.slow
def test_the_report_is_made_again_from_job_files(tmp_path, tiny_steps, capsys):
    """Two variants are trained and attacked; a second run trains and attacks nothing, and writes the same rows."""
    names = {"worlds": [0], "only": ["continued", "k0_equal_steps"], "output": tmp_path, "workers": 1}
    rows = ablation(**names)
    assert [row["variant"] for row in rows] == ["continued", "k0_equal_steps"]
    jobs = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("jobs/*.json")}
    # four models (base, floor and two variants) measured and attacked, and the benign task on all but the floor
    assert len(jobs) == 4 + 4 + 3
    for report_file in tmp_path.rglob("report.json"):
        report_file.unlink()
    shutil.rmtree(tmp_path / "figures")
    assert ablation(**names) == rows and (tmp_path / "figures" / "frontier-world-0.png").is_file()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("jobs/*.json")} == jobs
    assert "World 0: what came back" in capsys.readouterr().out
