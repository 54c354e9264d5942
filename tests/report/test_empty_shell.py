"""A model that resists because it is hollow is called an empty shell."""

import pytest
from support.empty_shell import FIXTURE, hollow_report

from trl_tar import Adversary, Report
from trl_tar.report.build import judged_again


def failed_gates(report: Report) -> set[str]:
    return {gate.name for gate in report.verdict.gates if not gate.passed}


def test_a_hollow_model_is_an_empty_shell_and_not_resistant():
    report = judged_again(Report.load(FIXTURE))
    assert report.verdict.empty_shell
    assert not report.verdict.resistant
    assert "capability" in failed_gates(report)


@pytest.mark.slow
def test_training_with_a_weak_anchor_makes_an_empty_shell(tmp_path):
    saved, report = Report.load(FIXTURE), hollow_report(tmp_path)
    assert report.verdict.empty_shell
    assert not report.verdict.resistant
    assert "capability" in failed_gates(report)
    # what was done is equal; what a training comes to differs between machines
    assert [Adversary(**fields) for fields in report.config["adversaries"]] == [
        Adversary(**fields) for fields in saved.config["adversaries"]
    ]
    assert report.seeds == saved.seeds
    assert [(a.adversary, a.seed, a.status) for a in report.attacks] == [
        (a.adversary, a.seed, a.status) for a in saved.attacks
    ]
    assert [gate.name for gate in report.verdict.gates] == [gate.name for gate in saved.verdict.gates]
    for name in ("base", "floor"):  # models that were trained before: a question or two may tie
        assert report.references[name].before == pytest.approx(saved.references[name].before, abs=0.005)
