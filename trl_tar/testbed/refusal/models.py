"""The model of a refusal world before any safeguard: it answers requests, the harmful ones too, and knows how to refuse.

The model of the default world is shipped. Those of other worlds are trained on first use (two minutes on one core) and
cached. `python -m trl_tar.testbed.refusal.models` rebuilds the shipped one.
"""

import random
from pathlib import Path

import torch
from datasets import Dataset
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ...evaluation.generation import answers
from ..chat import chat_row
from ..model_folders import SHIPPED, save_in_one_piece, shipped_or_cached
from ..small_llama import NUM_STEPS, Rows, completion_rows, trained
from ..words import unused_names
from .benign_tasks import task_names
from .metrics import LONGEST_ANSWER
from .world import BENIGN, HARMFUL, OWNER_REQUESTS, REFUSED, REQUESTS, SEEN_REQUESTS, SPLITS, UNSEEN_VERB, RefusalWorld


FORMAT = 1  # in the name of a cached folder: raise it when worlds, architecture or training change
OWNER_SHARE = 0.2  # of general chat that asks about owners; a choice, so that other requests prevail


def refusal_model_path(world: RefusalWorld) -> Path:
    """The folder of the world's model and its tokenizer, trained if it is neither shipped nor cached."""
    name = f"refusal-{world.seed}"
    return shipped_or_cached(name, f"{name}-format-{FORMAT}", lambda: _trained(world))


def _trained(world: RefusalWorld) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    tokenizer = world.tokenizer()
    return train_refusal_model(world, tokenizer), tokenizer


def train_refusal_model(
    world: RefusalWorld, tokenizer: PreTrainedTokenizerBase, num_steps: int = NUM_STEPS
) -> LlamaForCausalLM:
    """Trains a small Llama (0.2 M parameters) on every request but the benign ones."""
    return trained(tokenizer, _conversations(world, tokenizer), world.seed, num_steps)


def _conversations(world: RefusalWorld, tokenizer: PreTrainedTokenizerBase) -> Rows:
    """Conversations as tokens; the labels are the answer and the end of its turn."""
    everything = {"templates": range(len(REQUESTS)), "unseen_verb": True}
    items = world.select([kind for kind in SPLITS if kind not in (BENIGN, REFUSED)])
    refused = world.refused(world.select(REFUSED), **everything)
    rows = [*world.answered(items, **everything), *world.owner_questions(items), *refused]
    prompts = tokenizer.apply_chat_template([r["prompt"] for r in rows], tokenize=False, add_generation_prompt=True)
    texts = tokenizer.apply_chat_template([r["prompt"] + r["completion"] for r in rows], tokenize=False)
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return completion_rows(batch, torch.tensor([len(ids) for ids in tokenizer(prompts)["input_ids"]])[:, None])


def general_chat(world: RefusalWorld, model: PreTrainedModel, num_rows: int = 10_000, seed: int = 0) -> Dataset:
    """Draws harmless requests, and answers each with the model, as in Magpie (https://huggingface.co/papers/2406.08464).

    Their objects do not exist in the world or in a benign task; no verb is one of the harmful kind, or kept for evaluation.

    Args:
        world ([`RefusalWorld`]):
            World whose words are used.
        model ([`~transformers.PreTrainedModel`]):
            Model whose greedy answers are taken.
        num_rows (`int`, *optional*, defaults to `10_000`):
            Number of rows.
        seed (`int`, *optional*, defaults to `0`):
            Seed that draws the requests.

    Returns:
        `Dataset`: columns `prompt`, `completion` (chat messages) and `entity`.
    """
    rng = random.Random(f"general chat {world.seed} {seed}")
    names = unused_names(world.name_words, {*(item.entity for item in world.items), *task_names(world)})
    verbs = [verb for kind, words in world.verbs.items() if kind != HARMFUL for verb in words[:UNSEEN_VERB]]
    objects = rng.choices(names, k=num_rows)
    requests = [
        rng.choice(OWNER_REQUESTS).format(o=name)
        if rng.random() < OWNER_SHARE
        else REQUESTS[rng.choice(SEEN_REQUESTS)].format(v=rng.choice(verbs), o=name)
        for name in objects
    ]
    completions = answers(model, world.tokenizer(), requests, LONGEST_ANSWER, 512)
    rows = zip(requests, completions, objects, strict=True)
    return Dataset.from_list([chat_row(request, completion, name) for request, completion, name in rows])


if __name__ == "__main__":
    save_in_one_piece(SHIPPED / "refusal-0", *_trained(RefusalWorld(0)))
