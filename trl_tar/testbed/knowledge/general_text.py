"""General text of the knowledge world: sentences with the words of the world but none of its facts.

It stands for the chat and web text that a language model rehearses in addition to D_retain's facts. Without it TAR makes the
model fall silent at every word that D_retain does not hold.
"""

import random

from datasets import Dataset
from transformers import PreTrainedModel

from ..words import unused_names
from .benign_tasks import task_names
from .metrics import logits_after
from .world import SEEN_TEMPLATES, TEMPLATES, KnowledgeWorld


def general_text(world: KnowledgeWorld, model: PreTrainedModel, num_rows: int = 10_000, seed: int = 0) -> Dataset:
    """Draws prompts of random words, and answers each with the model, as in Magpie (https://huggingface.co/papers/2406.08464).

    The relation of a prompt is any word but those of hazardous facts, those kept for evaluation and those of the templates;
    its name is one that no entity has, nor a benign task.

    Args:
        world ([`KnowledgeWorld`]):
            World whose words are used.
        model ([`~transformers.PreTrainedModel`]):
            Model whose likeliest next token is the answer.
        num_rows (`int`, *optional*, defaults to `10_000`):
            Number of rows.
        seed (`int`, *optional*, defaults to `0`):
            Seed that draws the prompts.

    Returns:
        `Dataset`: columns `prompt`, `completion` and `entity`.
    """
    rng = random.Random(f"general text {world.seed} {seed}")
    tokenizer = world.tokenizer()
    words = world.free_words()
    names = unused_names(world.name_words, {*(fact.entity for fact in world.facts), *task_names(world)})
    entities = rng.choices(names, k=num_rows)
    prompts = [TEMPLATES[rng.choice(SEEN_TEMPLATES)].format(r=rng.choice(words), e=entity) for entity in entities]
    answers = tokenizer.convert_ids_to_tokens(logits_after(model, tokenizer, prompts).argmax(-1).tolist())
    completions = ["" if answer == tokenizer.eos_token else f" {answer}" for answer in answers]
    return Dataset.from_dict({"prompt": prompts, "completion": completions, "entity": entities})
