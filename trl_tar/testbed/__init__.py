"""Embedded worlds with stand-in hazards, and the pre-trained SmolLM2."""

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
