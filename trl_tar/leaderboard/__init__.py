"""Reports side by side, and whether their numbers may be compared."""

from .comparison import compare


__all__ = ["compare"]
