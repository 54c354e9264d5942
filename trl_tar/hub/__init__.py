"""Model and evidence in one commit on the Hub, and the way back."""

from .download import load_report
from .publishing import publish


__all__ = ["load_report", "publish"]
