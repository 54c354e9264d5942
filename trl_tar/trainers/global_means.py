"""Means of a step's losses over its global batch: all its micro-batches, on all devices."""

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
