"""The model that a refusal world begins with: it answers everything, the harmful kind too, and can refuse.

That of the default world is shipped. Those of other worlds are trained on first use (two minutes on one core) and kept in
the cache folder. `python -m trl_tar.testbed.refusal_models` rebuilds the shipped one.
"""

import random
from pathlib import Path

import torch
from datasets import Dataset
from filelock import FileLock
from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ...evaluation.generation import answers
from ..small_llama import SHIPPED, cache_folder, save_in_one_piece, trained
from .metrics import LONGEST_ANSWER
from .world import BENIGN, HARMFUL, OWNER_REQUESTS, REFUSED, REQUESTS, SEEN_REQUESTS, SPLITS, UNSEEN_VERB, RefusalWorld


FORMAT = 1  # part of the cache key: raise it when worlds, architecture or training change
NUM_STEPS = 900
OWNER_SHARE = 0.2


def refusal_model_path(world: RefusalWorld) -> Path:
    """Folder of the model (and its tokenizer); trains it if there is none yet."""
    shipped = SHIPPED / f"refusal-{world.seed}"
    if (shipped / "model.safetensors").is_file():
        return shipped
    folder = cache_folder() / f"refusal-{world.seed}-format-{FORMAT}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # several workers may ask at once
        if not (folder / "model.safetensors").is_file():
            tokenizer = world.tokenizer()
            save_in_one_piece(folder, train_refusal_model(world, tokenizer), tokenizer)
    return folder


def train_refusal_model(
    world: RefusalWorld, tokenizer: PreTrainedTokenizerBase, num_steps: int = NUM_STEPS
) -> LlamaForCausalLM:
    """Trains a small Llama (0.2 M parameters) on every request but the benign ones, on one thread."""
    return trained(tokenizer, _conversations(world, tokenizer), world.seed, num_steps)


def _conversations(
    world: RefusalWorld, tokenizer: PreTrainedTokenizerBase
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and labels (the answer and the end of its turn), each of shape `(N, T)`."""
    everything = {"templates": range(len(REQUESTS)), "unseen_verb": True}
    items = world.select([kind for kind in SPLITS if kind not in (BENIGN, REFUSED)])
    refused = world.refused(world.select(REFUSED), **everything)
    rows = [*world.answered(items, **everything), *world.owner_questions(items), *refused]
    prompts = tokenizer.apply_chat_template([r["prompt"] for r in rows], tokenize=False, add_generation_prompt=True)
    texts = tokenizer.apply_chat_template([r["prompt"] + r["completion"] for r in rows], tokenize=False)
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    starts = torch.tensor([len(ids) for ids in tokenizer(prompts)["input_ids"]])[:, None]
    completion = (torch.arange(batch["input_ids"].shape[1]) >= starts) & batch["attention_mask"].bool()
    return batch["input_ids"], batch["attention_mask"], batch["input_ids"].masked_fill(~completion, -100)


def general_chat(world: RefusalWorld, model: PreTrainedModel, num_rows: int = 10_000, seed: int = 0) -> Dataset:
    """Random harmless requests about objects that do not exist, each with the model's own answer, as in Magpie
    (https://huggingface.co/papers/2406.08464).

    No verb of the harmful kind, none kept for evaluation, and no object of the world occurs.

    Args:
        world ([`RefusalWorld`]):
            The world.
        model ([`~transformers.PreTrainedModel`]):
            Answers.
        num_rows (`int`, *optional*, defaults to `10_000`):
            Rows.
        seed (`int`, *optional*, defaults to `0`):
            Draws the requests.

    Returns:
        `Dataset`: with columns `prompt`, `completion` (chat messages) and `entity`.
    """
    rng = random.Random(f"general chat {world.seed} {seed}")
    given, family = world.name_words
    known = {item.entity for item in world.items}
    names = [name for name in (f"{g} {f}" for g in given for f in family) if name not in known]
    verbs = [verb for kind, words in world.verbs.items() if kind != HARMFUL for verb in words[:UNSEEN_VERB]]
    objects = rng.choices(names, k=num_rows)
    requests = [
        rng.choice(OWNER_REQUESTS).format(o=name)
        if rng.random() < OWNER_SHARE
        else REQUESTS[rng.choice(SEEN_REQUESTS)].format(v=rng.choice(verbs), o=name)
        for name in objects
    ]
    said = answers(model, world.tokenizer(), requests, LONGEST_ANSWER, 512)
    return Dataset.from_dict(
        {
            "prompt": [[{"role": "user", "content": request}] for request in requests],
            "completion": [[{"role": "assistant", "content": answer}] for answer in said],
            "entity": objects,
        }
    )


if __name__ == "__main__":
    default = RefusalWorld(0)
    save_in_one_piece(SHIPPED / "refusal-0", train_refusal_model(default, default.tokenizer()), default.tokenizer())
