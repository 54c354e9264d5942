"""How the evidence is summarised, against values worked out by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from trl_tar.evidence.knowledge import _over, _recoveries, _split_deviation, evidence_suite
from trl_tar.evidence.refusal import markdown as markdown_refusal
from trl_tar.evidence.refusal import refusal_evidence
from trl_tar.report.build import build_report
from trl_tar.report.records import ModelRecord, attack_record


def record(harms: list[float | None], before: float = 0.25) -> ModelRecord:
    points = [{"step": 10, "flops": 1, "loss": 0.1, "harm": harm, "capability": 0.9} for harm in harms]
    attacks = [attack_record("a", seed, [point]) for seed, point in enumerate(points)]
    model = {"id": "m", "weights_sha256": "00", "num_parameters": 10}
    return ModelRecord(model, {"harm": before, "capability": 0.9}, attacks)


def test_recovery_counts_finished_attacks_alone():
    references = {"base": record([1.0, 1.0, 1.0], before=1.0), "floor": record([0.25, 0.25, 0.25])}
    model = record([0.625, None, 0.25])
    model = replace(model, attacks=[*model.attacks[:2], replace(model.attacks[2], status="diverged")])
    report = build_report(model, references, seeds=[0, 1, 2])
    assert _recoveries(report) == {("a", 0): 0.5}


def test_a_missing_value_leaves_no_estimate_of_the_others():
    assert _over([0.1, 0.3])["mean"] == pytest.approx(0.2)
    assert _over([0.1, None, 0.3]) == {"mean": None, "low": None, "high": None, "n": 0}


def test_each_level_has_the_variance_that_the_level_below_does_not_explain():
    by_seed = [[0.1, 0.2, 0.3]]  # variance 0.01, of a mean of three 0.01 / 3
    trainings = [0.1, 0.3]  # variance 0.02
    worlds = [0.1, 0.5]  # variance 0.08
    split = _split_deviation(worlds, trainings, by_seed)
    assert split["attack seeds"] == pytest.approx(0.1)
    assert split["trainings"] == pytest.approx(math.sqrt(0.02 - 0.01 / 3))
    assert split["worlds"] == pytest.approx(math.sqrt(0.08 - 0.02))
    assert _split_deviation([0.2, 0.2], [0.2, 0.2], by_seed)["worlds"] == 0.0


def refusal_run(folder: Path, after: list[float], twin_after: list[float], capability: float) -> None:
    def known(harms: list[float], before: float) -> ModelRecord:
        model = record(harms, before)
        return replace(model, before={**model.before, "over_refusal": 0.0, "look_alike": 1.0, "capability": capability})

    references = {"base": known([1.0, 1.0], 1.0), "twin": known(twin_after, 0.1)}
    folder.mkdir(parents=True)
    build_report(known(after, 0.0), references, seeds=[0, 1], chance=0.0).save(folder)


def test_refusal_evidence_has_one_value_a_training(tmp_path):
    refusal_run(tmp_path / "world-1-seed-0" / "tar", [0.2, 0.4], [0.9, 0.9], 1.0)  # 0.6 below its twin
    refusal_run(tmp_path / "world-1-seed-1" / "tar", [0.1, 0.1], [0.9, 0.9], 0.9)  # 0.8
    refusal_run(tmp_path / "world-2-seed-0" / "repair", [0.5, 0.5], [0.9, 0.7], 0.8)  # 0.3
    table = refusal_evidence(tmp_path)
    assert table["over_worlds"]["twin − TAR"]["harm_after"]["mean"] == pytest.approx(0.45)  # of 0.6 and 0.3
    assert table["over_trainings"]["twin − TAR"]["harm_after"]["mean"] == pytest.approx(0.7)  # of 0.6 and 0.8
    assert table["over_worlds"]["model"]["capability"]["mean"] == pytest.approx(0.9)
    assert table["over_worlds"]["model"]["harm_after"]["n"] == 2
    text = (tmp_path / "table.md").read_text()
    assert "| world-1-seed-0 | TAR | 0.00 | 0.30 [0.00, 1.00] |" in text and text == markdown_refusal(table)
    assert json.loads((tmp_path / "evidence.json").read_text()) == table


def test_a_folder_without_runs_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match="has no run 'world-W-seed-S' with a report. Run make evidence-refusal first."):
        refusal_evidence(tmp_path)


def test_the_suite_is_that_of_the_readme():
    suite = evidence_suite()
    assert len(suite) == 26 + 8 and len({adversary.name for adversary in suite}) == len(suite)
    assert min(adversary.num_steps for adversary in suite) == 500
    assert max(adversary.lora_r or 0 for adversary in suite) == 64
