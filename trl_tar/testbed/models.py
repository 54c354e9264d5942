"""The models that a world begins with: `base`, which knows everything, and `floor`, which never saw the hazard.

Those of the default world are shipped. Those of other worlds are trained on first use (under a minute on one core) and
kept in the cache folder. `python -m trl_tar.testbed.models` rebuilds the shipped ones.
"""

import math
import os
import shutil
import tempfile
from pathlib import Path

import torch
from filelock import FileLock
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..losses import language_modeling_loss
from .knowledge import BENIGN, HAZARD, MAX_LENGTH, TEMPLATES, KnowledgeWorld


SHIPPED = Path(__file__).parent / "shipped"
FORMAT = 2  # part of the cache key: raise it when worlds, architecture or training change
NUM_STEPS, BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS = 900, 128, 6e-3, 50


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


def cache_folder() -> Path:
    """`TRL_TAR_CACHE`, or `trl_tar` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trl_tar"
    return Path(os.environ.get("TRL_TAR_CACHE", default))


def save_in_one_piece(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Saves to `folder` so that a killed run leaves nothing half-written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    unfinished.chmod(0o755)
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)


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


def trained(
    tokenizer: PreTrainedTokenizerBase,
    rows: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    seed: int,
    num_steps: int,
) -> LlamaForCausalLM:
    """A small Llama that was fitted to token ids, attention mask and labels, each of shape `(N, T)`, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several are slower on a model of this size
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config(tokenizer))
            fit(model, *rows, num_steps)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Two layers of width 80."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=80,
        intermediate_size=224,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=2 * MAX_LENGTH,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


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


def fit(model: LlamaForCausalLM, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, num_steps: int) -> None:
    """Trains in place on rows drawn with replacement; ids, mask and labels of shape `(N, T)`."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]

    def schedule(step: int) -> float:
        warm = min(1.0, (step + 1) / WARMUP_STEPS)
        return warm * (0.05 + 0.475 * (1 + math.cos(math.pi * step / num_steps)))

    schedulers = [torch.optim.lr_scheduler.LambdaLR(optimizer, schedule) for optimizer in optimizers]
    for _ in range(num_steps):
        rows = torch.randint(len(ids), (BATCH_SIZE,))
        total, count = language_modeling_loss(
            model(input_ids=ids[rows], attention_mask=mask[rows]).logits, labels[rows]
        )
        model.zero_grad()
        (total / count).backward()
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            optimizer.step()
            scheduler.step()


if __name__ == "__main__":
    for shipped_kind in ("base", "floor"):
        save_in_one_piece(SHIPPED / "knowledge-0" / shipped_kind, *_trained(KnowledgeWorld(0), shipped_kind))
