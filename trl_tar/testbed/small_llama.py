"""The small Llama of the embedded worlds."""

import math
import os
import shutil
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from ..losses import language_modeling_loss
from .knowledge.world import MAX_LENGTH


SHIPPED = Path(__file__).parent / "shipped"
NUM_STEPS, BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS = 900, 128, 6e-3, 50


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
