"""A model that resists because it is hollow, and its recorded report.

The fixture is written by nothing but this module, on purpose and from the root of the repository:

    PYTHONPATH=.:tests python -m support.empty_shell
"""

import tempfile
from dataclasses import replace
from pathlib import Path

from trl import TrlParser

from trl_tar import Report, TARConfig
from trl_tar.pipeline.console import quiet
from trl_tar.pipeline.knowledge import KnowledgeArguments
from trl_tar.pipeline.knowledge_world import demo_suite
from trl_tar.pipeline.steps import attack, train_phases
from trl_tar.tasks.built_in import world_task

from .repository import ROOT
from .started import CONFIGS


FIXTURE = ROOT / "tests" / "fixtures" / "empty_shell.json"


def hollow_report(folder: Path) -> Report:
    """Trains the paper's phases on world 0 with a weak anchor (outer learning rate 2e-3, λ_rep 0.03, λ_TR 2), and attacks the
    result."""
    quiet()
    arguments = ["--config", str(CONFIGS / "testbed_knowledge_paper.yaml"), "--output_dir", str(folder)]
    args, tar = TrlParser((KnowledgeArguments, TARConfig)).parse_args_and_config(arguments)
    weak = {"learning_rate": 2e-3, "representation_weight": 0.03, "tamper_resistance_weight": 2.0, "max_steps": 300}
    weak |= {"adam_epsilon": 1e-8, "max_grad_norm": 0.0, "representation_loss": "l2"}
    for name, value in weak.items():
        setattr(tar, name, value)
    task, adversaries = world_task(0), args.training_adversaries()
    twin, hollow = train_phases(task, args, tar, adversaries)
    suite = [replace(adversary, num_steps=200) for adversary in demo_suite()[:4]]
    references = {"base": task.model, "twin": twin}
    return attack(
        task.started_from(twin), args, tar, adversaries, suite, references, [twin, hollow], "Hollow", "A weak anchor."
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        hollow_report(Path(folder)).save(FIXTURE)
