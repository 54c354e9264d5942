"""Embedded worlds of invented facts and requests, and SmolLM2 from PyPI, each with a harmless stand-in for a hazard."""

from .knowledge.general_text import general_text
from .knowledge.metrics import benign_metric, knowledge_metrics, knowledge_questions, knowledge_zero_step_attacks
from .knowledge.models import knowledge_model, knowledge_model_path
from .knowledge.world import KnowledgeWorld


__all__ = [
    "KnowledgeWorld",
    "benign_metric",
    "general_text",
    "knowledge_metrics",
    "knowledge_model",
    "knowledge_model_path",
    "knowledge_questions",
    "knowledge_zero_step_attacks",
]
