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
from ..models.forward_passes import in_eval_mode


MAX_PROMPTS = 512
BATCH_SIZE = 64
# what writes into the residual stream, by the last part of its name
WRITERS = ("o_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "out_proj", "fc2", "wo")
MAX_LEFT = (
    0.5  # of the direction; a norm behind what writes turns some of it back, as in Gemma 2 (0.1) and OLMo 2 (0.1)
)


@torch.no_grad()
def abliterate(model: PreTrainedModel, hazardous: Dataset, harmless: Dataset) -> torch.Tensor:
    """Fits the direction and removes it from the residual stream, in place: W ← W − r rᵀ W for all that writes into it.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model under attack.
        hazardous, harmless (`Dataset`):
            Tokenised rows; the direction is that of the last token of the prompt.

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
    """Difference of means of the layer where it separates best, for its spread: the largest ‖μ₁ − μ₀‖ / σ.

    σ is the root mean square distance of a prompt to the mean of its own set, along the direction."""
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
    """Hidden states of the last prompt token of the first rows, shape `(layers + 1, N, hidden size)`."""
    prompts = [_prompt(row) for row in rows.select(range(min(len(rows), MAX_PROMPTS)))]
    states = []
    for start in range(0, len(prompts), BATCH_SIZE):
        some = prompts[start : start + BATCH_SIZE]
        longest = max(map(len, some))
        ids = torch.tensor([p + [0] * (longest - len(p)) for p in some], device=model.device)
        mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in some], device=model.device)
        outputs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        rows_of = torch.arange(len(some), device=model.device)
        states.append(torch.stack([h[rows_of, mask.sum(1) - 1] for h in outputs.hidden_states]).float())
    return torch.cat(states, 1)


def _along(model: PreTrainedModel, rows: Dataset, direction: torch.Tensor) -> torch.Tensor:
    """Size of the residual stream along the direction, over layers and prompts."""
    return (last_prompt_states(model, rows)[:-1] @ direction).norm()  # the last one is normalised


def remove_direction(model: PreTrainedModel, direction: torch.Tensor) -> None:
    """W ← W − r rᵀ W for embeddings and all matrices and biases that write into the residual stream, in place."""
    if not direction.isfinite().all() or direction.norm() == 0:
        raise ValueError("The direction is zero or not finite. Fit it on two different data sets.")
    r = direction / direction.norm()
    for module in model.modules():  # of tokens, and of positions where a model learned them
        if isinstance(module, nn.Embedding) and module.embedding_dim == len(r):
            _project_rows(module.weight, r)  # (V, H)
    written = list(_writers(model))
    if not written:
        raise ValueError(
            f"{type(model).__name__} has no layer named {', '.join(WRITERS)}, so what writes into its residual stream is "
            "not known. Leave abliteration out."
        )
    for module in written:
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
    """Tokens before the first one that is predicted; the whole row where all are."""
    start = next((i for i, label in enumerate(row["labels"]) if label != IGNORED), len(row["labels"]))
    return row["input_ids"][:start] or row["input_ids"]
