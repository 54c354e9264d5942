"""What each layer of a model would say: its hidden states, read through the model's last norm and head."""

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ..distributed.gradients import Batch
from ..losses import IGNORED, language_modeling_loss
from .architecture import sample_rows
from .forward_passes import in_eval_mode


def final_norm(model: PreTrainedModel | PeftModel) -> nn.Module:
    """The norm that the model's last hidden state comes from.

    It is found in one small pass, as the module whose output that state is. Raises `ValueError` for a model without one, or
    whose head is not a module of its own."""
    outputs: list[tuple[nn.Module, torch.Tensor]] = []

    def note(module: nn.Module, _: tuple, output: object) -> None:
        if isinstance(output, torch.Tensor) and "norm" in type(module).__name__.lower():
            outputs.append((module, output))

    hooks = [module.register_forward_hook(note) for module in model.modules()]
    ids, mask = sample_rows(model)
    try:
        with torch.no_grad(), in_eval_mode(model):
            states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False).hidden_states
    finally:
        for hook in hooks:
            hook.remove()
    found = [module for module, output in outputs if output.data_ptr() == states[-1].data_ptr()]
    if not found or model.get_output_embeddings() is None:
        name = type(model.get_base_model() if isinstance(model, PeftModel) else model).__name__
        raise ValueError(
            f"{name} has no norm in front of a head through which the other layers could be read as the last one is. Use "
            "another defence."
        )
    return found[0]


def layer_cross_entropy(
    model: nn.Module, norm: nn.Module, head: nn.Module, batch: Batch
) -> tuple[torch.Tensor, torch.Tensor]:
    """Next-token cross-entropy of all layers: the model's own, and that of the embeddings and of each layer before the last.

    The logits of a layer are computed again in the backward pass, so that no two layers' are held at once. A scale or cap that
    the model applies after its head is in its own logits alone.

    Args:
        model (`torch.nn.Module`):
            The model, also inside DDP.
        norm, head (`torch.nn.Module`):
            From [`final_norm`], and the model's `get_output_embeddings()`.
        batch (`dict[str, torch.Tensor]`):
            `input_ids`, `attention_mask` and `labels` of shape `(B, T)`.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: sum over tokens to predict and layers, and their number.
    """
    ids, labels = batch["input_ids"], batch["labels"]
    outputs = model(input_ids=ids, attention_mask=batch["attention_mask"], output_hidden_states=True, use_cache=False)
    total, count = language_modeling_loss(outputs.logits, labels)
    wanted = labels[:, 1:] != IGNORED
    targets = labels[:, 1:][wanted]

    def loss(states: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(head(norm(states)), targets, reduction="sum")

    for states in outputs.hidden_states[:-1]:  # the last is that of the model's own logits
        total = total + checkpoint(loss, states[:, :-1][wanted], use_reentrant=False)
    return total, count * len(outputs.hidden_states)
