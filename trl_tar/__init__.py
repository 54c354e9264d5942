"""Tamper-resistant safeguards for open-weight language models, in the Hugging Face ecosystem."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .adversaries.adversary import Adversary as Adversary
    from .adversaries.sweeps import sweep as sweep
    from .hub.download import load_report as load_report
    from .hub.publishing import publish as publish
    from .leaderboard.comparison import compare as compare
    from .red_teaming.runner import red_team as red_team
    from .report.report import Report as Report
    from .trainers.forget_config import ForgetConfig as ForgetConfig
    from .trainers.forget_trainer import ForgetTrainer as ForgetTrainer
    from .trainers.random_mapping_config import RandomMappingConfig as RandomMappingConfig
    from .trainers.random_mapping_trainer import RandomMappingTrainer as RandomMappingTrainer
    from .trainers.tar_config import TARConfig as TARConfig
    from .trainers.tar_trainer import TARTrainer as TARTrainer
    from .verification.verifier import verify as verify

from .version import __version__ as __version__


# public name → module; imported when first used, so that `trl-tar --help` does not wait for torch
_MODULES = {
    "Adversary": "adversaries.adversary",
    "ForgetConfig": "trainers.forget_config",
    "ForgetTrainer": "trainers.forget_trainer",
    "RandomMappingConfig": "trainers.random_mapping_config",
    "RandomMappingTrainer": "trainers.random_mapping_trainer",
    "Report": "report.report",
    "TARConfig": "trainers.tar_config",
    "TARTrainer": "trainers.tar_trainer",
    "compare": "leaderboard.comparison",
    "load_report": "hub.download",
    "publish": "hub.publishing",
    "red_team": "red_teaming.runner",
    "sweep": "adversaries.sweeps",
    "verify": "verification.verifier",  # a module of the same name would take the function's place when it is imported
}
__all__ = sorted(_MODULES)


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module 'trl_tar' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
