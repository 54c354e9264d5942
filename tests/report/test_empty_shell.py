"""A model that resists because it is hollow is called an empty shell.

`fixtures/empty_shell.json` is the report of a model trained with a weak anchor (outer learning rate 2e-3, λ_rep 0.03,
λ_TR 2) on world 0. `pytest -m slow tests/report/test_empty_shell.py` trains and attacks it again and rewrites the file.
"""

from pathlib import Path

import pytest

from trl_tar import Report
from trl_tar.cli.console import quiet
from trl_tar.cli.demo import demo_suite
from trl_tar.pipeline.knowledge_world import attack_all, harden, safeguard
from trl_tar.report.build import judged_again
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path


FIXTURE = Path(__file__).parents[1] / "fixtures" / "empty_shell.json"


def test_a_hollow_model_is_an_empty_shell_and_not_resistant():
    verdict = judged_again(Report.load(FIXTURE)).verdict
    assert verdict.empty_shell
    assert not verdict.resistant
    failed = {gate.name for gate in verdict.gates if not gate.passed}
    assert "capability" in failed


@pytest.mark.slow
def test_training_with_a_weak_anchor_makes_an_empty_shell(tmp_path):
    quiet()
    world = KnowledgeWorld(0)
    base, floor = knowledge_model_path(world), knowledge_model_path(world, "floor")
    twin = safeguard(world, base, tmp_path / "random_mapping")
    weak = {"learning_rate": 2e-3, "representation_weight": 0.03, "tamper_resistance_weight": 2.0, "max_steps": 300}
    weak |= {"adam_epsilon": 1e-8, "max_grad_norm": 0.0, "representation_loss": "l2"}
    models = {"random_mapping": twin, "hollow": harden(world, twin, tmp_path / "hollow", **weak)}
    report = attack_all(world, base, models, floor, demo_suite(), tmp_path, (0, 1, 2), 2)["hollow"]
    assert report.verdict.empty_shell
    assert not report.verdict.resistant
    report.save(FIXTURE)
