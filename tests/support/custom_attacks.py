"""Attacks from outside the package, as tests name them: `support.custom_attacks:descend`."""

import torch
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from trl_tar.data.tokenisation import length_of  # noqa: F401, a function of another module under a name of this one
from trl_tar.losses import language_modeling_loss


def descend(model, tokenizer, data, seed, evaluate, budget, extra_steps=0, loss_is=None):
    """Plain gradient descent on the first rows of the first data set, with one pass without gradients before each step."""
    collate = DataCollatorForLanguageModeling(tokenizer.pad_token_id)
    (rows,) = data.values()
    batch = collate([rows[i] for i in range(budget.batch_size)])
    read = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
    for _ in range(budget.num_steps + extra_steps):
        with torch.no_grad():
            model(**read)
        total, count = language_modeling_loss(model(**read).logits, batch["labels"])
        (total / count).backward()
        with torch.no_grad():
            for p in model.parameters():
                p -= budget.learning_rate * p.grad
                p.grad = None
        evaluate((total / count).item() if loss_is is None else loss_is)


def idle(model, tokenizer, data, seed, evaluate, budget):
    """Tells of no step."""
