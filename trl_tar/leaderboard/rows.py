"""One row a model, and the part of a comparison that page and figure read."""

from dataclasses import dataclass
from typing import Any, Protocol


NOT_ATTACKED = "not attacked"


@dataclass(frozen=True)
class Row:
    """One model of a [`Comparison`]. A value that was not measured is `None`, and so is the `mean` of such an estimate.

    Args:
        model (`str`):
            Hub id, or name of the folder.
        repository (`str`, *optional*):
            Hub id, where the report is from the Hub.
        weights_sha256 (`str`), digest (`str`):
            Hash of the model's weights, and digest of its report.
        task (`dict`, *optional*), chance (`float`), seeds (`list[int]`):
            As in [`Report`].
        harm_before, harm_before_error, capability_before (`float`, *optional*):
            Harm before any attack with its standard error over questions, and capability.
        recovery_before (`float`, *optional*):
            R before any attack, see [`~trl_tar.report.recovery.recovery_before`].
        worst_harm, harm_after, worst_recovery, worst_reached_recovery, capability_after, twin_difference (`dict`):
            As in the summary of a [`Report`].
        unseen_harm_after (`dict`):
            See [`~trl_tar.report.unseen_harm.unseen_harm_after`].
        common_worst_harm (`dict`):
            `worst_harm` over the attacks that all reports have in common.
        twin_worst_harm (`dict`):
            `worst_harm` of the undefended twin.
        adversaries, wanted, finished, left_out (`int`):
            Numbers of adversaries, of attacks (one per adversary and seed), of completed attacks, and of those that a budget
            left out.
        verdict (`str`):
            `"resistant"`, `"empty shell"`, `"not resistant"`, `"not tested enough"` or `"not attacked"`.
        gates (`dict[str, int]`):
            Numbers of gates that `passed`, `failed` and were `not measured`.
    """

    model: str
    repository: str | None
    weights_sha256: str
    digest: str
    task: dict[str, Any] | None
    chance: float
    seeds: list[int]
    harm_before: float | None
    harm_before_error: float | None
    recovery_before: float | None
    capability_before: float | None
    worst_harm: dict[str, Any]
    common_worst_harm: dict[str, Any]
    harm_after: dict[str, Any]
    unseen_harm_after: dict[str, Any]
    worst_recovery: dict[str, Any]
    worst_reached_recovery: dict[str, Any]
    capability_after: dict[str, Any]
    twin_worst_harm: dict[str, Any]
    twin_difference: dict[str, Any]
    adversaries: int
    wanted: int
    finished: int
    left_out: int
    verdict: str
    gates: dict[str, int]

    @property
    def attacked(self) -> bool:
        """Tells whether an attack on the model completed."""
        return self.finished > 0


class Ranking(Protocol):
    """The rows in their order, as [`~trl_tar.leaderboard.comparison.Comparison`] hands them to its page and its figure."""

    @property
    def rows(self) -> list[Row]:
        """Lowest harm after attack first."""

    @property
    def only_some_in_common(self) -> bool:
        """Tells whether the attacked models have attacks in common, and some of them others besides."""

    def ranked(self, row: Row) -> dict[str, Any]:
        """The estimate that the rows are ordered by."""
