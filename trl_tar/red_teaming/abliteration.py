"""Abliteration: the direction that tells hazardous prompts from harmless ones is removed from the weights.

The direction is fitted on the model under attack (https://huggingface.co/papers/2406.11717), so that a defence that moved it
is attacked where it moved it to.
"""

from collections.abc import Iterator

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..losses import IGNORED
from ..models.forward_passes import in_eval_mode, last_token_states


MAX_PROMPTS = 512  # of each set, our choice
BATCH_SIZE = 64  # prompts of one forward pass; memory and time alone depend on it
# layers that write into the residual stream, by the last part of their name
WRITERS = ("o_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "out_proj", "fc2", "wo")
# share of the direction that may be left, our choice between 0.1, which Gemma 2 and OLMo 2 leave since a norm behind the
# writers turns some of it back, and 1, which is left where the writers are not known
MAX_LEFT = 0.5


@torch.no_grad()
def abliterate(model: PreTrainedModel, hazardous: Dataset, harmless: Dataset) -> torch.Tensor:
    """Fits the direction and removes it from the residual stream, in place: W ← W − r rᵀ W for each matrix that writes there.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model under attack.
        hazardous, harmless (`Dataset`):
            Tokenised rows; the direction is fitted at the last token of each prompt.

    Returns:
        `torch.Tensor` of shape `(hidden size,)`: the unit direction.

    Raises:
        `ValueError`: for a model whose layers are not known here, or data sets that no direction tells apart.
    """
    with in_eval_mode(model):  # an attack before this one leaves it in training
        direction = fitted_direction(model, hazardous, harmless)
        before = _along(model, hazardous, direction)
        remove_direction(model, direction)
        left = _along(model, hazardous, direction) / before
    if left > MAX_LEFT:
        raise ValueError(
            f"Abliteration leaves {left:.0%} of the direction in {type(model).__name__}: something else writes it than "
            f"layers named {', '.join(WRITERS)}. Leave abliteration out."
        )
    return direction


def fitted_direction(model: PreTrainedModel, hazardous: Dataset, harmless: Dataset) -> torch.Tensor:
    """Unit vector along μ₁ − μ₀ of the layer that separates best, the one with the largest ‖μ₁ − μ₀‖ / σ, shape `(H,)`.

    μ are the means of both sets, and σ is the root mean square distance of a prompt to the mean of its own set, along the
    direction. Raises `ValueError` for sets of one mean."""
    first, second = last_prompt_states(model, hazardous), last_prompt_states(model, harmless)  # (layers, N, H)
    difference = first.mean(1) - second.mean(1)  # (layers, H)
    length = difference.norm(dim=-1)
    if not length.isfinite().all() or length.max() == 0:
        raise ValueError(
            "No direction tells the hazardous prompts from the harmless ones. Give two different data sets."
        )
    direction = difference / length.clamp_min(torch.finfo(length.dtype).tiny)[:, None]
    spread = torch.cat([states - states.mean(1, keepdim=True) for states in (first, second)], 1)  # (layers, 2N, H)
    deviation = torch.einsum("lnh,lh->ln", spread, direction).square().mean(1).sqrt()
    # layer 0 is the embedding, and the last one is normalised: neither is the stream that layers write into
    separation = (length / deviation.clamp_min(1e-12))[1:-1] if len(length) > 2 else (length / deviation)
    return direction[1:-1][separation.argmax()] if len(length) > 2 else direction[separation.argmax()]


def last_prompt_states(model: PreTrainedModel, rows: Dataset) -> torch.Tensor:
    """Hidden states of the last prompt token of the first `MAX_PROMPTS` rows, shape `(layers + 1, N, H)`, in float32."""
    prompts = [_prompt(row) for row in rows.select(range(min(len(rows), MAX_PROMPTS)))]
    states = []
    for start in range(0, len(prompts), BATCH_SIZE):
        batch = prompts[start : start + BATCH_SIZE]
        longest = max(map(len, batch))
        ids = torch.tensor([p + [0] * (longest - len(p)) for p in batch], device=model.device)
        mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in batch], device=model.device)
        states.append(last_token_states(model, ids, mask).float())
    return torch.cat(states, 1)


def _along(model: PreTrainedModel, rows: Dataset, direction: torch.Tensor) -> torch.Tensor:
    """Norm of the residual stream along the direction, over layers and prompts."""
    return (last_prompt_states(model, rows)[:-1] @ direction).norm()  # the last one is normalised


def remove_direction(model: PreTrainedModel, direction: torch.Tensor) -> None:
    """Sets W ← W − r rᵀ W, in place, for embeddings and for matrices and biases that write into the residual stream."""
    if not direction.isfinite().all() or direction.norm() == 0:
        raise ValueError("The direction is zero or not finite. Fit it on two different data sets.")
    r = direction / direction.norm()
    for module in model.modules():  # of tokens, and of positions where a model learned them
        if isinstance(module, nn.Embedding) and module.embedding_dim == len(r):
            _project_rows(module.weight, r)  # (V, H)
    writers = list(_writers(model))
    if not writers:
        raise ValueError(
            f"{type(model).__name__} has no layer named {', '.join(WRITERS)}, so what writes into its residual stream is "
            "not known. Leave abliteration out."
        )
    for module in writers:
        if isinstance(module, Conv1D):
            _project_rows(module.weight, r)  # (inputs, H)
        else:
            module.weight.sub_(torch.outer(r.to(module.weight), r.to(module.weight) @ module.weight))  # (H, inputs)
        if module.bias is not None:
            module.bias.sub_(r.to(module.bias) * (module.bias @ r.to(module.bias)))


def _writers(model: PreTrainedModel) -> Iterator[nn.Module]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and name.rsplit(".", 1)[-1] in WRITERS:
            yield module


def _project_rows(weight: torch.Tensor, r: torch.Tensor) -> None:
    r = r.to(weight)
    weight.sub_(torch.outer(weight @ r, r))


def _prompt(row: dict[str, list[int]]) -> list[int]:
    """The tokens before the first one that is predicted; the whole row where all are predicted."""
    start = next((i for i, label in enumerate(row["labels"]) if label != IGNORED), len(row["labels"]))
    return row["input_ids"][:start] or row["input_ids"]
