"""Forward passes of models: of the one under attack, and of references in evaluation mode."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import nn
from transformers import masking_utils

from ..distributed.gradients import Batch
from ..losses import IGNORED


POSITIONS = "positions"  # key of a batch: where its logits are read, as [`add_positions`] gives it


def next_token_logits(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Logits of shape `(B, T, V)`, in the precision of the model's output; those at padding, on the right, have no meaning."""
    with _padding_unread():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits


def labelled_logits(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits where the batch has labels, and the labels that go with them, as losses take both.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model, in the mode that it is to be read in.
        batch (`dict[str, torch.Tensor]`):
            `input_ids`, `attention_mask` and `labels` of shape `(B, T)`, padded on the right. With `positions` of shape
            `(B, N + 1)` the model's head sees these positions alone: prompts and padding are most of a batch, and the head is a
            fifth of SmolLM2's cost.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: logits of shape `(B, N + 1, V)` and labels of shape `(B, N + 1)`; without
        `positions`, `(B, T, V)` and `(B, T)`.
    """
    with head_at_labels(model, batch):
        logits = next_token_logits(model, batch)
    return at_labels(logits, batch)


def add_positions(batch: dict[str, torch.Tensor]) -> None:
    """Adds `positions` to a batch: those whose next token has a label, in order, shape `(B, N + 1)` for at most N in a row.

    Shorter rows are filled up with positions that predict no label, and the last one is a filler everywhere, as losses leave the
    last logits out. Nothing is added where nothing is saved. For a batch on a GPU it waits for the device.
    """
    wanted = batch["labels"][:, 1:] != IGNORED
    most = int(wanted.sum(1).max())
    if most < wanted.shape[1]:
        batch[POSITIONS] = F.pad(torch.argsort(~wanted, dim=1, stable=True)[:, :most], (0, 1))


@contextlib.contextmanager
def head_at_labels(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Lets the model's head see the `positions` of a batch alone, so that whatever follows it (a scale, a cap) does too.

    A model that has no such module, or calls it with anything but hidden states of shape `(B, T, D)`, goes on to give logits at all
    positions, of which [`at_labels`] takes these."""
    positions = batch.get(POSITIONS)
    head = None if positions is None else model.get_output_embeddings()
    if positions is None or head is None:
        yield
        return

    def narrowed(_: nn.Module, arguments: tuple) -> tuple:
        states, *others = arguments
        return (states if states.shape[:-1] != batch["input_ids"].shape else _taken(states, positions), *others)

    hook = head.register_forward_pre_hook(narrowed)
    try:
        yield
    finally:
        hook.remove()


def at_labels(logits: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits and labels of [`labelled_logits`], from those of a pass under [`head_at_labels`]."""
    labels, positions = batch["labels"], batch.get(POSITIONS)
    if positions is None:
        return logits, labels
    if logits.shape[1] != positions.shape[1]:
        logits = _taken(logits, positions)
    return logits, F.pad(labels.gather(1, positions[:, :-1] + 1), (1, 0), value=IGNORED)


def _taken(values: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[-1]))


def last_token_states(model: nn.Module, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Hidden states of the last token of each row, shape `(layers + 1, B, H)`; the embeddings are the first layer.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model, in the mode that it is to be read in.
        ids, mask (`torch.Tensor` of shape `(B, T)`):
            Tokens and attention mask, padded on the right, on the device of the model.

    Returns:
        `torch.Tensor`: in the precision of the model.

    Raises:
        `ValueError`: for a model whose hidden states are not all of shape `(B, T, H)`.
    """
    outputs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
    shapes = [tuple(states.shape) for states in outputs.hidden_states or ()]
    odd = next((shape for shape in shapes if shape != (*ids.shape, shapes[0][-1])), None)
    if odd is not None or not shapes:
        found = "no hidden states" if odd is None else f"hidden states of shapes {shapes[0]} and {shapes[-1]}"
        raise ValueError(
            f"{type(model).__name__} has {found} for {tuple(ids.shape)} tokens, of which none is the vector of a layer at a "
            "token. Leave out what reads them: abliteration, and the linear probe."
        )
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
