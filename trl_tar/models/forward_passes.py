"""Forward passes of the model under attack, and of references."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import masking_utils

from ..distributed.gradients import Batch


def next_token_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of shape `(B, T, V)`, in the precision of the model's output; of padding, which is on the right, any numbers."""
    with _padding_unread():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


@contextlib.contextmanager
def _padding_unread() -> Iterator[None]:
    """Keeps transformers from asking the device in each pass whether a row is padded, to leave the mask out where none is.

    Nothing looks at padding on the right but the padding itself: causal attention may leave the mask out always."""
    names = vars(masking_utils)
    ask = names.get("fast_all")
    if ask is None:  # a version that asks by another way
        yield
        return
    names["fast_all"] = lambda padding: True
    try:
        yield
    finally:
        names["fast_all"] = ask


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Without dropout; for reference forward passes."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
