"""What a search chooses from: the fields of an adversary, each with its values or its range."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..adversaries.adversary import Adversary
from ..adversaries.suites import ATTENTION
from ..files import read_yaml


if TYPE_CHECKING:  # of the extra trl-tar[search]
    import optuna

SHARE = "hazard_share"  # in a space, in place of `dataset` and `mixture`: the share of hazardous rows
NAME = "searched"  # of the adversary; suites have no other of that name
FIELDS = ({each.name for each in fields(Adversary)} | {SHARE}) - {"name", "dataset", "mixture", "after", "options"}
# At least TamperBench's space for LoRA (recipes/configs/search_tamperbench.yaml) in every direction: a higher rank
# and every parameter, twice the steps, three decades of learning rates, and mixes with harmless rows.
DEFAULT = {
    "lora_r": [None, 8, 16, 32, 64, 128],
    "lora_target_modules": ["all-linear", ATTENTION],
    "num_steps": [16, 64, 128, 256, 512, 1024],
    "learning_rate": {"low": 1e-6, "high": 1e-3, "log": True},
    "batch_size": [8, 16, 32, 64],
    "optimizer": ["adamw", "schedule_free_adamw"],
    "lr_scheduler": ["constant", "cosine"],
    SHARE: [0.1, 0.25, 0.5, 0.75, 1.0],
}


@dataclass(frozen=True)
class SearchSpace:
    """A space for [`search`], which takes an Optuna trial to an [`Adversary`].

    Args:
        choices (`dict[str, list or dict]`, *optional*):
            Field of [`Adversary`], or `hazard_share` → its values, or the range `{low, high}` of a number, with `log: true` where
            its logarithm is drawn evenly. A value alone is fixed. By default LoRA of six kinds and all parameters, 16 to 1,024
            steps, learning rates over three decades, batches, optimizers, schedules, and shares of harmless rows.
        learning_rate_scale (`float`, *optional*, defaults to `1.0`):
            Multiplies every learning rate, as in a suite.
        hazard, retain (`str`, *optional*):
            Names of the data sets, hazardous and harmless.

    Raises:
        `ValueError`: for a field that no adversary has, or what is neither values nor a range.
    """

    choices: Mapping[str, Any] = field(default_factory=lambda: DEFAULT)
    learning_rate_scale: float = 1.0
    hazard: str = "hazard"
    retain: str = "retain"

    def __post_init__(self):
        unknown = next((name for name in self.choices if name not in FIELDS), None)
        if unknown is not None:
            raise ValueError(
                f"The space has {unknown!r}, which no search chooses. Use fields of Adversary, or {SHARE}."
            )
        for name, choice in self.choices.items():
            _check(name, choice)
        if not 0 < self.learning_rate_scale < math.inf:
            raise ValueError(
                f"The space has a learning rate scale of {self.learning_rate_scale}. Use a number above 0."
            )

    @classmethod
    def from_file(cls, path: Path, learning_rate_scale: float = 1.0) -> "SearchSpace":
        """Reads the choices from a YAML or JSON file."""
        return cls(
            read_yaml(path, dict, "Give fields of Adversary, each with its values or its range."), learning_rate_scale
        )

    def __call__(self, trial: "optuna.Trial") -> Adversary:
        """The adversary that the trial draws."""
        drawn: dict[str, Any] = {}
        for name, choice in self.choices.items():
            if _idle(name, drawn):
                continue
            drawn[name] = _drawn(trial, name, choice)
        share = drawn.pop(SHARE, 0.5)
        if "learning_rate" in drawn:
            drawn["learning_rate"] *= self.learning_rate_scale
        if share == 1:
            return Adversary(NAME, self.hazard, **drawn)
        return Adversary(NAME, mixture={self.hazard: share, self.retain: 1 - share}, **drawn)


def _idle(name: str, drawn: Mapping[str, Any]) -> bool:
    """Whether what was drawn before leaves the field without effect, so that [`Adversary`] would refuse it."""
    if name == "lora_target_modules":  # every parameter is trained
        return "lora_r" in drawn and drawn["lora_r"] is None
    return name == "lr_scheduler" and drawn.get("optimizer") == "schedule_free_adamw"


def _check(name: str, choice: Any) -> None:
    if isinstance(choice, list) and choice:
        return
    if isinstance(choice, dict):
        low, high = choice.get("low"), choice.get("high")
        numbers = all(type(each) in (int, float) and math.isfinite(each) for each in (low, high))
        if set(choice) <= {"low", "high", "log"} and numbers and low < high and (low > 0 or not choice.get("log")):
            return
    elif not isinstance(choice, list):
        return  # a value alone
    raise ValueError(
        f"The space has {name}: {choice!r}. Give a list of values, or a range such as {{low: 1.0e-6, high: 1.0e-4, log: true}}."
    )


def _drawn(trial: "optuna.Trial", name: str, choice: Any) -> Any:
    if isinstance(choice, list):
        return trial.suggest_categorical(name, choice)
    if not isinstance(choice, dict):
        return choice
    low, high, log = choice["low"], choice["high"], bool(choice.get("log"))
    if type(low) is int and type(high) is int:
        return trial.suggest_int(name, low, high, log=log)
    return trial.suggest_float(name, low, high, log=log)
