"""One description of an attacker, and the suites that are made of them. Nothing here imports torch."""

from .adversary import Adversary
from .sweeps import sweep


__all__ = ["Adversary", "sweep"]
