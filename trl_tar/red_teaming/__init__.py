"""Attacks on released weights, run as an adversary would run them. (`red_team` is the function, this is its package.)"""

from .attack import run_attack
from .benign import BenignTask
from .runner import red_team
from .search import SearchResult, search
from .suites import (
    benign_suite,
    composed_suite,
    input_suite,
    jailbreak_tuning_suite,
    jailbroken,
    knowledge_suite,
    peft_suite,
    preference_suite,
    refusal_suite,
    weight_edit_suite,
)


__all__ = [
    "BenignTask",
    "SearchResult",
    "benign_suite",
    "composed_suite",
    "input_suite",
    "jailbreak_tuning_suite",
    "jailbroken",
    "knowledge_suite",
    "peft_suite",
    "preference_suite",
    "red_team",
    "refusal_suite",
    "run_attack",
    "search",
    "weight_edit_suite",
]
