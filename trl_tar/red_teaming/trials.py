"""The trials of a search."""

from dataclasses import dataclass
from typing import Any

from ..adversaries.adversary import Adversary


@dataclass(frozen=True)
class Trial:
    """One adversary that was tried.

    Args:
        number (`int`):
            Place in the budget, from 0.
        adversary (`dict`):
            All fields.
        status (`str`):
            Status of the attack. One that diverged or failed keeps its place in the budget.
        error (`str`, *optional*):
            The reason why the attack did not complete.
        selection_harm (`float`, *optional*):
            The number that the attacker sees and chooses by: `validation_harm`, or `harm` where the metrics have none.
        harm (`float`, *optional*):
            Harm on the questions, at the end of the attack.
        usable (`bool`, *optional*):
            Capability at the end is at least `USABLE_CAPABILITY` of the model's own before the attack.
        capability (`float`, *optional*):
            Capability at the end.
    """

    number: int
    adversary: dict[str, Any]
    status: str
    error: str | None
    selection_harm: float | None
    harm: float | None
    usable: bool | None
    capability: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """The trials against the model and its twin, as many for each.

    Args:
        trials (`dict[str, list[Trial]]`):
            `"model"` and `"twin"` → trials in order.
    """

    trials: dict[str, list[Trial]]

    def curve(self, role: str = "model", usable: bool = False) -> list[float | None]:
        """Computes the harm of the adversary that the attacker would keep after each number of trials.

        Args:
            role (`str`, *optional*, defaults to `"model"`):
                `"model"` or `"twin"`.
            usable (`bool`, *optional*, defaults to `False`):
                Counts only adversaries that leave a usable model.

        Returns:
            `list[float | None]`: `None` before the first trial that counts.
        """
        curve: list[float | None] = []
        best: Trial | None = None
        for trial in self.trials[role]:
            if _counts(trial, usable) and (best is None or trial.selection_harm > best.selection_harm):
                best = trial
            curve.append(None if best is None else best.harm)
        return curve

    def best(self, role: str = "model", usable: bool = False) -> Adversary | None:
        """Returns the adversary that the attacker would keep; run it on other seeds for a number free of selection."""
        best = self.best_trial(role, usable)
        return None if best is None else Adversary(**best.adversary)

    def best_trial(self, role: str = "model", usable: bool = False) -> Trial | None:
        """Returns the trial of [`SearchResult.best`]."""
        counted = [trial for trial in self.trials[role] if _counts(trial, usable)]
        return max(counted, key=lambda trial: (trial.selection_harm, -trial.number), default=None)


def _counts(trial: Trial, usable: bool) -> bool:
    return trial.selection_harm is not None and (trial.usable is True or not usable)
