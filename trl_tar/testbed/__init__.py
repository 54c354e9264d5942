from .general import general_text
from .knowledge import KnowledgeWorld
from .metrics import benign_metric, knowledge_metrics, knowledge_questions, knowledge_zero_step_attacks
from .models import knowledge_model, knowledge_model_path


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
