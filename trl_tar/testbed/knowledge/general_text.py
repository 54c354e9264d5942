"""General text of the knowledge world: what a language model says about nothing in particular.

It has the words of the world but none of its facts, and takes the place that chat and web text take beside D_retain's
facts for a language model. Without it TAR falls silent at every word that D_retain does not hold.
"""

import random

from datasets import Dataset
from transformers import PreTrainedModel

from .metrics import next_token_logits
from .world import HAZARD, SEEN_TEMPLATES, TEMPLATES, UNSEEN_WORDING, KnowledgeWorld


def general_text(world: KnowledgeWorld, model: PreTrainedModel, num_rows: int = 10_000, seed: int = 0) -> Dataset:
    """Prompts of random words, each with the model's own answer, as in Magpie (https://huggingface.co/papers/2406.08464).

    The relation is any word but those of hazardous facts, which are filtered out, and those kept for evaluation; the
    name is one that no entity has.

    Args:
        world ([`KnowledgeWorld`]):
            The world.
        model ([`~transformers.PreTrainedModel`]):
            Answers with its likeliest next token.
        num_rows (`int`, *optional*, defaults to `10_000`):
            Rows.
        seed (`int`, *optional*, defaults to `0`):
            Draws the prompts.

    Returns:
        `Dataset`: with columns `prompt`, `completion` and `entity`.
    """
    rng = random.Random(f"general text {world.seed} {seed}")
    tokenizer = world.tokenizer()
    hazardous = {word for group in (world.relations, world.values) for words in group[HAZARD] for word in words}
    kept = {words[UNSEEN_WORDING] for relations in world.relations.values() for words in relations}
    grammar = {word for template in TEMPLATES for word in template.split()}
    words = [word for word in world.vocabulary if word not in hazardous | kept | grammar]
    given, family = world.name_words
    known = {fact.entity for fact in world.facts}
    names = [name for name in (f"{g} {f}" for g in given for f in family) if name not in known]
    entities = rng.choices(names, k=num_rows)
    prompts = [TEMPLATES[rng.choice(SEEN_TEMPLATES)].format(r=rng.choice(words), e=entity) for entity in entities]
    answers = tokenizer.convert_ids_to_tokens(next_token_logits(model, tokenizer, prompts).argmax(-1).tolist())
    completions = ["" if answer == tokenizer.eos_token else f" {answer}" for answer in answers]
    return Dataset.from_dict({"prompt": prompts, "completion": completions, "entity": entities})
