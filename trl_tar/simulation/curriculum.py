"""The longest attack that is drawn, which grows as the defence does."""

from collections.abc import Iterable
from typing import Any


RECENT = 12  # values of L_TR that a decision is the mean of: two of each attacker in a pool of six, by convention


class Curriculum:
    """Draws no attack longer than the model can be expected to hold, and longer ones as it does.

    Args:
        maximum (`float`):
            Longest attack at the start, in steps.
        longest (`int`):
            Longest attack of all. Without a threshold it is drawn from the start.
        threshold (`float`, *optional*):
            The maximum grows when the mean of the last `RECENT` values of L_TR, taken in attacks older than half of it, is at
            most this.
        growth (`float`, *optional*, defaults to `1.25`):
            Factor of the maximum.
    """

    def __init__(self, maximum: float, longest: int, threshold: float | None = None, growth: float = 1.25):
        self.maximum = float(longest if threshold is None else min(maximum, longest))
        self.longest, self.threshold, self.growth = longest, threshold, growth
        self._recent: list[float] = []

    def add(self, evaluations: Iterable[tuple[int, float]]) -> None:
        """Reads the ages and values of L_TR of an outer step, the same on all devices, and grows once at most."""
        if self.threshold is None:
            return
        self._recent += [loss for age, loss in evaluations if age > self.maximum / 2]
        self._recent = self._recent[-RECENT:]
        if len(self._recent) == RECENT and sum(self._recent) / RECENT <= self.threshold:
            self.maximum = min(self.maximum * self.growth, float(self.longest))
            self._recent = []

    def state_dict(self) -> dict[str, Any]:
        """What [`load_state_dict`] reads."""
        return {"maximum": self.maximum, "recent": self._recent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where another run was."""
        self.maximum, self._recent = state["maximum"], state["recent"]
