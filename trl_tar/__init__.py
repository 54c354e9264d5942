"""Tamper-resistant safeguards for open-weight language models, in the Hugging Face ecosystem."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .adversaries.adversary import Adversary
    from .adversaries.sweeps import sweep
    from .hub.download import load_report
    from .hub.publishing import publish
    from .leaderboard.comparison import compare
    from .red_teaming.runner import red_team
    from .report.report import Report
    from .trainers.random_mapping_config import RandomMappingConfig
    from .trainers.random_mapping_trainer import RandomMappingTrainer
    from .trainers.tar_config import TARConfig
    from .trainers.tar_trainer import TARTrainer
    from .verification.verifier import verify

from .version import __version__ as __version__


# public name → module; imported when first used, so that `trl-tar --help` does not wait for torch
_MODULES = {
    "Adversary": "adversaries.adversary",
    "sweep": "adversaries.sweeps",
    "TARConfig": "trainers.tar_config",
    "TARTrainer": "trainers.tar_trainer",
    "RandomMappingConfig": "trainers.random_mapping_config",
    "RandomMappingTrainer": "trainers.random_mapping_trainer",
    "red_team": "red_teaming.runner",
    "Report": "report.report",
    "compare": "leaderboard.comparison",
    "load_report": "hub.download",
    "publish": "hub.publishing",
    "verify": "verification.verifier",  # a module of the same name would take the function's place when it is imported
}
__all__ = [
    "Adversary",
    "RandomMappingConfig",
    "RandomMappingTrainer",
    "Report",
    "TARConfig",
    "TARTrainer",
    "compare",
    "load_report",
    "publish",
    "red_team",
    "sweep",
    "verify",
]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'trl_tar' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
