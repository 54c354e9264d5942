"""A model that resists because it is hollow, and its recorded report.

The fixture is written by nothing but this module, on purpose and from the root of the repository:

    PYTHONPATH=.:tests python -m support.empty_shell
"""

import tempfile
from pathlib import Path

from trl_tar import Report
from trl_tar.cli.console import quiet
from trl_tar.cli.demo import demo_suite
from trl_tar.pipeline.knowledge_world import attack_all, harden, safeguard
from trl_tar.testbed import KnowledgeWorld, knowledge_model_path

from .repository import ROOT


FIXTURE = ROOT / "tests" / "fixtures" / "empty_shell.json"


def hollow_report(folder: Path) -> Report:
    """Trains with a weak anchor (outer learning rate 2e-3, λ_rep 0.03, λ_TR 2) on world 0, and attacks the result."""
    quiet()
    world = KnowledgeWorld(0)
    base, floor = knowledge_model_path(world), knowledge_model_path(world, "floor")
    twin = safeguard(world, base, folder / "random_mapping")
    weak = {"learning_rate": 2e-3, "representation_weight": 0.03, "tamper_resistance_weight": 2.0, "max_steps": 300}
    weak |= {"adam_epsilon": 1e-8, "max_grad_norm": 0.0, "representation_loss": "l2"}
    models = {"random_mapping": twin, "hollow": harden(world, twin, folder / "hollow", **weak)}
    return attack_all(world, base, models, floor, demo_suite(), folder, (0, 1, 2), 2)["hollow"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        hollow_report(Path(folder)).save(FIXTURE)
