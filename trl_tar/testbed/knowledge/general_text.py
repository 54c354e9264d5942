"""General text of the knowledge world, which the model answers itself.

It stands for the chat and web text that a language model rehearses in addition to D_retain's facts. Without it TAR makes the
model fall silent at every word, and in every form of sentence, that D_retain does not hold.
"""

import random

from datasets import Dataset
from transformers import PreTrainedModel

from ..words import unused_names
from .benign_tasks import task_names
from .forms import formless
from .metrics import logits_after
from .world import GRAMMAR, RETAIN, SEEN_TEMPLATES, TEMPLATES, KnowledgeWorld


FORMS_OF_A_FACT = 12  # 6,144 rows of the facts of D_retain, which has each in 21 sentences: a choice


def general_text(world: KnowledgeWorld, model: PreTrainedModel, num_rows: int = 16_000, seed: int = 0) -> Dataset:
    """Draws prompts of random words, and answers each with the model, as in Magpie (https://huggingface.co/papers/2406.08464).

    Five eighths of them are in the seen templates, the others in no fixed form. The relation is any word but those of
    hazardous facts and of the templates; the name is one that no entity has, nor a benign task. So words that are kept for
    evaluation are there as words, as in the text of a language model, but no fact in them. The facts of D_retain in no fixed form come in addition.

    Args:
        world ([`KnowledgeWorld`]):
            World whose words are used.
        model ([`~transformers.PreTrainedModel`]):
            Model whose likeliest next token is the answer.
        num_rows (`int`, *optional*, defaults to `16_000`):
            Number of prompts of random words.
        seed (`int`, *optional*, defaults to `0`):
            Seed that draws the prompts.

    Returns:
        `Dataset`: columns `prompt`, `completion` and `entity`.
    """
    rng = random.Random(f"general text {world.seed} {seed}")
    tokenizer = world.tokenizer()
    words = world.free_words()
    names = unused_names(world.name_words, {*(fact.entity for fact in world.facts), *task_names(world)})
    entities, in_templates = rng.choices(names, k=num_rows), round(5 / 8 * num_rows)
    prompts = [
        TEMPLATES[rng.choice(SEEN_TEMPLATES)].format(r=rng.choice(words), e=entity)
        for entity in entities[:in_templates]
    ]
    prompts += [formless(rng, GRAMMAR, words, rng.choice(words), entity) for entity in entities[in_templates:]]
    kept = world.formless_sentences(world.select(RETAIN, "rehearsed"), FORMS_OF_A_FACT)
    prompts += kept["prompt"]
    entities += kept["entity"]
    answers = tokenizer.convert_ids_to_tokens(logits_after(model, tokenizer, prompts).argmax(-1).tolist())
    completions = ["" if answer == tokenizer.eos_token else f" {answer}" for answer in answers]
    return Dataset.from_dict({"prompt": prompts, "completion": completions, "entity": entities})
