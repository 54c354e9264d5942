"""Tamper-resistant safeguards for open-weight language models, in the Hugging Face ecosystem."""

from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from .adversary import Adversary, sweep
    from .hub import load_report, publish
    from .leaderboard import compare
    from .random_mapping_config import RandomMappingConfig
    from .random_mapping_trainer import RandomMappingTrainer
    from .red_teaming import red_team
    from .report import Report
    from .tar_config import TARConfig
    from .tar_trainer import TARTrainer
    from .verification import verify

__version__ = "0.1.0"

# public name → module; imported when first used, so that `trl-tar --help` does not wait for torch
_MODULES = {
    "Adversary": "adversary",
    "sweep": "adversary",
    "TARConfig": "tar_config",
    "TARTrainer": "tar_trainer",
    "RandomMappingConfig": "random_mapping_config",
    "RandomMappingTrainer": "random_mapping_trainer",
    "red_team": "red_teaming",
    "Report": "report",
    "compare": "leaderboard",
    "load_report": "hub",
    "publish": "hub",
    "verify": "verification",  # a module of the same name would take the function's place when it is imported
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
