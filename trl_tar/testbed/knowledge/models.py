"""The models that a world begins with: `base`, which knows everything, and `floor`, which never saw the hazard.

Those of the default world are shipped. Those of other worlds are trained on first use (under a minute on one core) and
kept in the cache folder. `python -m trl_tar.testbed.models` rebuilds the shipped ones.
"""

from pathlib import Path

import torch
from filelock import FileLock
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from ..small_llama import NUM_STEPS, SHIPPED, cache_folder, save_in_one_piece, trained
from .world import BENIGN, HAZARD, TEMPLATES, KnowledgeWorld


FORMAT = 2  # part of the cache key: raise it when worlds, architecture or training change


def knowledge_model(world: KnowledgeWorld, kind: str = "base") -> LlamaForCausalLM:
    """The world's `"base"` or `"floor"` model in float32, shipped, cached, or trained now.

    Args:
        world ([`KnowledgeWorld`]):
            The world.
        kind (`str`, *optional*, defaults to `"base"`):
            `"base"` has learned every fact but the benign ones, in all templates and wordings; `"floor"` all but the
            benign and the hazardous ones.
    """
    return LlamaForCausalLM.from_pretrained(knowledge_model_path(world, kind), dtype=torch.float32)


def knowledge_model_path(world: KnowledgeWorld, kind: str = "base") -> Path:
    """Folder of the model (and its tokenizer); trains it if there is none yet."""
    if kind not in ("base", "floor"):
        raise ValueError(f"The model {kind!r} does not exist. Use 'base' or 'floor'.")
    shipped = SHIPPED / f"knowledge-{world.seed}" / kind
    if (shipped / "model.safetensors").is_file():
        return shipped
    folder = cache_folder() / f"knowledge-{world.seed}-format-{FORMAT}" / kind
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # several workers may ask at once
        if not (folder / "model.safetensors").is_file():
            save_in_one_piece(folder, *_trained(world, kind))
    return folder


def _trained(world: KnowledgeWorld, kind: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    tokenizer = world.tokenizer()
    return train_knowledge_model(world, tokenizer, kind), tokenizer


def train_knowledge_model(
    world: KnowledgeWorld, tokenizer: PreTrainedTokenizerBase, kind: str, num_steps: int = NUM_STEPS
) -> LlamaForCausalLM:
    """Trains a small Llama (0.2 M parameters) on every fact of the world, on one thread.

    Matrices are trained with Muon (https://huggingface.co/papers/2502.16982): it needs a tenth of AdamW's steps here.
    """
    return trained(tokenizer, _sentences(world, tokenizer, kind), world.seed, num_steps)


def _sentences(
    world: KnowledgeWorld, tokenizer: PreTrainedTokenizerBase, kind: str
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, attention mask and labels (the value and the end of the sentence), each of shape `(N, T)`."""
    left_out = {BENIGN} if kind == "base" else {BENIGN, HAZARD}
    facts = [fact for fact in world.facts if fact.domain not in left_out]
    data = world.sentences(facts, range(len(TEMPLATES)), unseen_wording=True)
    texts = [p + c + f" {tokenizer.eos_token}" for p, c in zip(data["prompt"], data["completion"], strict=True)]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    lengths = batch["attention_mask"].sum(1, keepdim=True)
    position = torch.arange(batch["input_ids"].shape[1])
    completion = (position >= lengths - 2) & (position < lengths)
    return batch["input_ids"], batch["attention_mask"], batch["input_ids"].masked_fill(~completion, -100)


if __name__ == "__main__":
    for shipped_kind in ("base", "floor"):
        save_in_one_piece(SHIPPED / "knowledge-0" / shipped_kind, *_trained(KnowledgeWorld(0), shipped_kind))
