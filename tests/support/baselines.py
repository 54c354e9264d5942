"""Trainers of the earlier defences on tiny models, and models whose answers a test can compute by hand."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from support import tiny

from trl_tar import ForgetTrainer


ROWS = tiny.tokenised()


def trainer(output_dir: Path | str, trainer_class: type[ForgetTrainer], model=None, **settings) -> ForgetTrainer:
    """A trainer of one step, with pairs as D_forget where it reads them."""
    forget = ROWS["pairs" if trainer_class.forget_objective == "dpo" else "forget"]
    return trainer_class(
        tiny.gpt2() if model is None else model,
        trainer_class.config_class(str(output_dir), **{**tiny.TRAINER, "max_steps": 1, **settings}),
        train_dataset=Dataset.from_list(ROWS["retain"]),
        eval_dataset=Dataset.from_list(ROWS["retain"][:5]),
        forget_dataset=Dataset.from_list(forget),
        processing_class=tiny.tokenizer(),
    )


def saying(probabilities: Sequence[Sequence[float]]) -> Any:
    """A model that gives these distributions at the positions of one row, shape (T, V), and the last anything."""
    logits = torch.tensor([[*probabilities, probabilities[-1]]], dtype=torch.float64).log() + 3.0
    return lambda **_: SimpleNamespace(logits=logits)


def two(p: float) -> list[float]:
    """A distribution over two tokens, of which the first has probability p."""
    return [p, 1 - p]


def first_tokens(count: int) -> dict[str, torch.Tensor]:
    """A row of the first token alone, with so many to predict."""
    ids = torch.zeros(1, count + 1, dtype=torch.long)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


def mean_loss(tested: ForgetTrainer, probabilities: Sequence[Sequence[float]]) -> float:
    """The mean loss of a defence for a model that gives the tokens of [`first_tokens`] these distributions."""
    batch = first_tokens(len(probabilities))
    return (tested.forget_loss(saying(probabilities), batch) / tested.forget_count(batch)).item()
