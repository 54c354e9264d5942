"""Forward passes of models: of the one under attack, and of references in evaluation mode."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import masking_utils

from ..distributed.gradients import Batch


def next_token_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of shape `(B, T, V)`, in the precision of the model's output; those at padding, on the right, have no meaning."""
    with _padding_unread():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def last_token_states(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hidden states of the last token of each row, shape `(layers + 1, B, H)`; the embeddings are the first layer.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, in the mode that it is to be read in.
        ids, mask (`torch.Tensor` of shape `(B, T)`):
            Tokens and attention mask, padded on the right, on the device of the model.

    Returns:
        `torch.Tensor`: in the precision of the model.
    """
    outputs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    return torch.stack([at_last_token(states, mask) for states in outputs.hidden_states])


def at_last_token(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """`values` of shape `(B, T, X)` at the last token of each row that is padded on the right, shape `(B, X)`."""
    return values[torch.arange(len(values), device=values.device), mask.sum(1) - 1]


@contextlib.contextmanager
def _padding_unread() -> Iterator[None]:
    """Lets transformers leave the attention mask out without asking the device whether a row is padded.

    It asks in each pass, and waits for the answer. With padding on the right the answer does not matter: under causal
    attention only padding attends to padding."""
    names = vars(masking_utils)
    ask = names.get("fast_all")
    if ask is None:  # a version of transformers that asks in another way
        yield
        return
    names["fast_all"] = lambda padding: True
    try:
        yield
    finally:
        names["fast_all"] = ask


@contextlib.contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts all modules into evaluation mode, without dropout, and back into their own modes on exit."""
    with mode_put_back(model):
        model.eval()
        yield


@contextlib.contextmanager
def mode_put_back(model: nn.Module) -> Iterator[None]:
    """Puts every module back into the training or evaluation mode that it had before the block."""
    modes = {module: module.training for module in model.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
