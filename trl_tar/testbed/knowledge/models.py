"""The models of a knowledge world before any safeguard: `base` knows every fact, `floor` never saw a hazardous one.

The models of the default world are shipped. Those of other worlds are trained on first use (under a minute on one core) and
cached. `python -m trl_tar.testbed.knowledge.models` rebuilds the shipped ones.
"""

from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from ..model_folders import SHIPPED, save_in_one_piece, shipped_or_cached
from ..small_llama import NUM_STEPS, Rows, completion_rows, trained
from .world import BENIGN, HAZARD, TEMPLATES, KnowledgeWorld


FORMAT = 2  # in the name of a cached folder: raise it when worlds, architecture or training change


def knowledge_model(world: KnowledgeWorld, kind: str = "base") -> LlamaForCausalLM:
    """Loads the world's `"base"` or `"floor"` model in float32; trains it if it is neither shipped nor cached.

    Args:
        world ([`KnowledgeWorld`]):
            World of the model.
        kind (`str`, *optional*, defaults to `"base"`):
            `"base"` has learned every fact but the benign ones, in all templates and wordings; `"floor"` all but the
            benign and the hazardous ones.

    Raises:
        `ValueError`: for another kind.
    """
    return LlamaForCausalLM.from_pretrained(knowledge_model_path(world, kind), dtype=torch.float32)


def knowledge_model_path(world: KnowledgeWorld, kind: str = "base") -> Path:
    """The folder of the model and its tokenizer, trained if it is neither shipped nor cached. Arguments as above."""
    if kind not in ("base", "floor"):
        raise ValueError(f"The model {kind!r} does not exist. Use 'base' or 'floor'.")
    world_name = f"knowledge-{world.seed}"
    return shipped_or_cached(
        f"{world_name}/{kind}", f"{world_name}-format-{FORMAT}/{kind}", lambda: _trained(world, kind)
    )


def _trained(world: KnowledgeWorld, kind: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    tokenizer = world.tokenizer()
    return train_knowledge_model(world, tokenizer, kind), tokenizer


def train_knowledge_model(
    world: KnowledgeWorld, tokenizer: PreTrainedTokenizerBase, kind: str, num_steps: int = NUM_STEPS
) -> LlamaForCausalLM:
    """Trains a small Llama (0.2 M parameters) on the facts of the world, but for those that `kind` does not know."""
    return trained(tokenizer, _sentences(world, tokenizer, kind), world.seed, num_steps)


def _sentences(world: KnowledgeWorld, tokenizer: PreTrainedTokenizerBase, kind: str) -> Rows:
    """Sentences as tokens; the labels are the value and the end of the sentence."""
    left_out = {BENIGN} if kind == "base" else {BENIGN, HAZARD}
    facts = [fact for fact in world.facts if fact.domain not in left_out]
    data = world.sentences(facts, range(len(TEMPLATES)), unseen_wording=True)
    texts = [p + c + f" {tokenizer.eos_token}" for p, c in zip(data["prompt"], data["completion"], strict=True)]
    batch = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    return completion_rows(batch, batch["attention_mask"].sum(1, keepdim=True) - 2)  # value and end are a token each


if __name__ == "__main__":
    for shipped_kind in ("base", "floor"):
        save_in_one_piece(SHIPPED / "knowledge-0" / shipped_kind, *_trained(KnowledgeWorld(0), shipped_kind))
