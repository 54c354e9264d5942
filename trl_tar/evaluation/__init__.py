"""Metrics, each a function from a model and its tokenizer to one score an example."""

from .coherence import AnswerEntropy, AnswerNLL, NoOption, Repetition
from .completion_loss import CompletionLoss
from .judged import Judged
from .linear_probe import LinearProbe
from .lm_eval import LMEvalTask
from .multiple_choice import MultipleChoice
from .scores import Scores


__all__ = [
    "AnswerEntropy",
    "AnswerNLL",
    "CompletionLoss",
    "Judged",
    "LMEvalTask",
    "LinearProbe",
    "MultipleChoice",
    "NoOption",
    "Repetition",
    "Scores",
]
