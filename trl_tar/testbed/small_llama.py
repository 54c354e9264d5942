"""The small Llama of the embedded worlds, and how it is trained."""

import math

import torch
from transformers import BatchEncoding, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from ..losses import IGNORED, language_modeling_loss
from .knowledge.world import MAX_LENGTH


# Chosen so that a model knows every fact of its world (`test_shipped_models_are_small_and_know_what_they_should`) after one or
# two minutes on one core. The shipped models were trained with these numbers: whoever changes them rebuilds those.
NUM_STEPS, BATCH_SIZE, LEARNING_RATE, WARMUP_STEPS = 900, 128, 6e-3, 50
Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # token ids, attention mask and labels, each of shape (N, T)


def trained(
    tokenizer: PreTrainedTokenizerBase,
    rows: Rows,
    seed: int,
    num_steps: int,
) -> LlamaForCausalLM:
    """Builds a small Llama and fits it to the rows, on one thread and without a change of the global random state."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads are slower on a model of this size
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = LlamaForCausalLM(config(tokenizer))
            fit(model, *rows, num_steps)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


def config(tokenizer: PreTrainedTokenizerBase) -> LlamaConfig:
    """Configuration of the small Llama: two layers of width 80, 0.2 M parameters with the vocabulary of a world."""
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


def completion_rows(batch: BatchEncoding, starts: torch.Tensor) -> Rows:
    """The rows of tokenised texts, padded on the right, whose labels are the tokens from `starts` on, of shape `(N, 1)`."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    completion = (torch.arange(ids.shape[1]) >= starts) & mask.bool()
    return ids, mask, ids.masked_fill(~completion, IGNORED)


def fit(model: LlamaForCausalLM, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, num_steps: int) -> None:
    """Trains in place on rows drawn with replacement; ids, mask and labels have shape `(N, T)`.

    Matrices are trained with Muon (https://huggingface.co/papers/2502.16982), which needs a tenth of AdamW's steps here."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, weight_decay=0.0, betas=(0.9, 0.98)),
    ]

    def schedule(step: int) -> float:  # linear warm-up, then a cosine from 1 to a twentieth
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
