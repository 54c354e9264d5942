"""Attacks on released weights, run as an adversary would run them. (`red_team` is the function, this is its package.)"""

from .attack import run_attack
from .runner import BenignTask, red_team


__all__ = ["BenignTask", "red_team", "run_attack"]
