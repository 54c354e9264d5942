"""A model that resists because it is hollow, and its recorded report.

The fixture is written by nothing but this module, on purpose and from the root of the repository:

    PYTHONPATH=.:tests python -m support.empty_shell
"""

import tempfile
from pathlib import Path

from trl_tar import Report
from trl_tar.pipeline.console import quiet
from trl_tar.pipeline.knowledge import safeguard
from trl_tar.pipeline.knowledge_world import demo_suite, knowledge_arguments, tar_config, training_adversaries
from trl_tar.pipeline.steps import attack, harden
from trl_tar.tasks.built_in import world_task

from .repository import ROOT


FIXTURE = ROOT / "tests" / "fixtures" / "empty_shell.json"


def hollow_report(folder: Path) -> Report:
    """Trains with a weak anchor (outer learning rate 2e-3, λ_rep 0.03, λ_TR 2) on world 0, and attacks the result."""
    quiet()
    task, args, tar, adversaries = world_task(0), knowledge_arguments(), tar_config(folder), training_adversaries()
    twin = safeguard(task, args, tar)
    task = task.started_from(twin)
    weak = {"learning_rate": 2e-3, "representation_weight": 0.03, "tamper_resistance_weight": 2.0, "max_steps": 300}
    weak |= {"adam_epsilon": 1e-8, "max_grad_norm": 0.0, "representation_loss": "l2"}
    for name, value in weak.items():
        setattr(tar, name, value)
    hollow = harden(task, tar, adversaries, twin, "hollow")
    references = {"base": task.model, "twin": twin}
    return attack(task, args, tar, adversaries, demo_suite(), references, [twin, hollow], "Hollow", "A weak anchor.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        hollow_report(Path(folder)).save(FIXTURE)
