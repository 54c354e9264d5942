"""Means of losses over a step's global batch, or over an evaluation: all micro-batches, on all devices."""

import torch

from ..distributed.gradients import all_reduce


class GlobalMeans:
    """The n means of one step. What they divide by is known before the first micro-batch; their sums grow along.

    Args:
        counts (`torch.Tensor` of shape `(n,)`, float64):
            Terms of each sum in this device's micro-batches. They are all-reduced here.

    Attributes:
        counts (`torch.Tensor` of shape `(n,)`):
            Terms over all devices, at least 1: rows of one token leave nothing to predict.
    """

    def __init__(self, counts: torch.Tensor):
        all_reduce([counts])
        self.counts = counts.clamp(min=1)
        self._is_empty = counts == 0
        self._sums = torch.zeros_like(counts)

    def add(self, sums: torch.Tensor) -> None:
        """Adds the sums of a micro-batch, shape `(n,)`, float64 and without gradient."""
        self._sums += sums

    def values(self) -> list[float | None]:
        """The means, `None` for one without terms. All devices call it, once, after their last micro-batch."""
        all_reduce([self._sums])
        means = (self._sums / self.counts).tolist()
        return [None if empty else mean for mean, empty in zip(means, self._is_empty.tolist(), strict=True)]


class EvaluationMeans:
    """The n means of an evaluation, which the counts of its batches weight: a batch of short rows counts for less."""

    def __init__(self) -> None:
        self._batches: list[torch.Tensor] = []  # each of shape (2, n): sums and counts

    def add(self, sums: torch.Tensor, counts: torch.Tensor) -> None:
        """Adds the sums of a batch and what they divide by, of shape `(n,)` both."""
        self._batches.append(torch.stack([sums.detach().double(), counts.double()]))

    def values(self) -> list[float]:
        """The means, 0 for one without terms. All devices call it, once, after their last batch."""
        total = torch.stack(self._batches).sum(0)
        all_reduce([total])
        return (total[0] / total[1].clamp(min=1)).tolist()
