"""The embedded worlds as tasks of the recipes."""

from transformers import AutoModelForCausalLM

from ..recipe import Task
from ..red_teaming import BenignTask
from .general import general_text
from .knowledge import KnowledgeWorld
from .metrics import benign_metric, knowledge_metrics, knowledge_zero_step_attacks
from .models import knowledge_model, knowledge_model_path
from .refusal import RefusalWorld
from .refusal_metrics import refusal_benign_metric, refusal_metrics, refusal_zero_step_attacks
from .refusal_models import general_chat, refusal_model_path


def refusal_task(seed: int) -> Task:
    """The refusal world of that seed; general chat is the model's own answers to random requests."""
    world = RefusalWorld(seed)
    path = refusal_model_path(world)
    data = world.datasets()
    chat = general_chat(world, AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval())
    return Task(
        path,
        world.tokenizer(),
        {**data, "general": chat, "harmful": data["attacker"]},
        refusal_metrics(seed),
        refusal_zero_step_attacks(seed),
        question_entities=frozenset(world.question_entities()),
        benign=BenignTask(data["benign"], refusal_benign_metric(seed)),
    )


def knowledge_task(seed: int) -> Task:
    """The knowledge world of that seed; general text is the model's own answers to random prompts."""
    world = KnowledgeWorld(seed)
    data = world.datasets()
    text = general_text(world, knowledge_model(world))
    return Task(
        knowledge_model_path(world),
        world.tokenizer(),
        {**data, "general": text, "hazard": data["attacker"]},
        knowledge_metrics(seed),
        knowledge_zero_step_attacks(seed),
        {"floor": knowledge_model_path(world, "floor")},
        frozenset(world.question_entities()),
        BenignTask(data["benign"], benign_metric(seed)),
    )
