"""The report: what was measured, what follows from it, and its verdict."""

from .report import Report


__all__ = ["Report"]
