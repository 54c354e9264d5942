"""Attacks on released weights, run as an adversary would run them. (`red_team` is the function, this is its package.)"""

from ..adversaries.prompt_template import jailbroken
from ..adversaries.suites import (
    benign_suite,
    composed_suite,
    input_suite,
    jailbreak_tuning_suite,
    knowledge_suite,
    peft_suite,
    preference_suite,
    refusal_suite,
    weight_edit_suite,
)
from ..tasks.benign import BenignTask
from .attack import run_attack
from .attack_search import search
from .runner import red_team
from .trials import SearchResult


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
