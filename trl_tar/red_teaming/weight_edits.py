"""Attacks without training: changes of the weights, one case for each row of `EDITS` in `adversaries/choices.py`."""

from collections.abc import Callable, Iterator, Mapping

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..adversaries.adversary import Adversary
from .abliteration import abliterate
from .abliteration_search import Judge, searched_abliteration


# quantiles of a normal distribution, scaled to [-1, 1] (https://huggingface.co/papers/2305.14314, Appendix E)
NF4_LEVELS = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
NF4_BLOCK = 64  # weights of one scale, as in the same paper and in bitsandbytes


@torch.no_grad()
def edit_weights(
    model: PreTrainedModel,
    adversary: Adversary,
    seed: int,
    base: PreTrainedModel | None,
    tokenised: Mapping[str, Dataset],
    judge: Judge | None = None,
) -> None:
    """Edits the weights as the adversary asks, in place.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model under attack, in floating point.
        adversary ([`Adversary`]):
            An attack with an `edit`.
        seed (`int`):
            Seed of the noise, and of a search.
        base ([`~transformers.PreTrainedModel`], *optional*):
            The public base, for `"interpolate"` and `"strip_delta"`.
        tokenised (`dict[str, Dataset]`):
            Rows of the data sets that `"abliterate"` reads.
        judge (`Callable`, *optional*):
            Model → harm on questions that no report counts, for an `"abliterate"` that searches.

    Raises:
        `ValueError`: for a model that the edit cannot be made on.
    """
    strength = adversary.edit_strength
    match adversary.edit:
        case "int8":
            _edit_matrices(model, int8)
        case "nf4":
            _edit_matrices(model, nf4)
        case "prune":
            _edit_matrices(model, lambda weight: pruned(weight, strength))
        case "noise":
            generator = torch.Generator().manual_seed(seed)
            _edit_matrices(model, lambda weight: noisy(weight, strength, generator))
        case "interpolate":
            reference = _base_weights(model, base, adversary)
            for name, p in model.named_parameters():
                p.lerp_(reference[name].to(p), strength)
        case "strip_delta":
            reference = _base_weights(model, base, adversary)
            for name, p in matrices(model):
                p.copy_(without_top_directions(p, reference[name].to(p), int(strength)))
        case "abliterate":
            assert adversary.dataset is not None and adversary.contrast_dataset is not None  # checked by Adversary
            rows = tokenised[adversary.dataset], tokenised[adversary.contrast_dataset]
            if adversary.edit_trials > 0:
                searched_abliteration(model, *rows, adversary.edit_trials, seed, judge)
            else:
                abliterate(model, *rows)
        case _:
            raise AssertionError(adversary.edit)  # a row of EDITS without a case here


def int8(weight: torch.Tensor) -> torch.Tensor:
    """Rounds 127 W / max|W| and scales it back, with one scale for each output; W has shape `(outputs, inputs)`."""
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny) / 127
    return (weight / scale).round() * scale


def nf4(weight: torch.Tensor) -> torch.Tensor:
    """Rounds to the nearest NF4 level and scales back, with one scale, max|w|, for every 64 values in a row."""
    levels = torch.tensor(NF4_LEVELS, dtype=weight.dtype, device=weight.device)
    flat = weight.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)  # (blocks, 64)
    scale = padded.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    middles = (levels[1:] + levels[:-1]) / 2
    rounded = levels[torch.bucketize(padded / scale, middles)] * scale
    return rounded.view(-1)[: len(flat)].view_as(weight)


def pruned(weight: torch.Tensor, share: float) -> torch.Tensor:
    """Sets the `share` of entries that are smallest in absolute value to 0."""
    count = round(share * weight.numel())
    smallest = weight.abs().reshape(-1).argsort(stable=True)[:count]
    return weight.reshape(-1).index_fill(0, smallest, 0.0).view_as(weight)


def noisy(weight: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Returns W + share · std(W) · ε with ε ~ N(0, 1)."""
    noise = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
    return weight + share * weight.std() * noise


def without_top_directions(weight: torch.Tensor, base: torch.Tensor, count: int) -> torch.Tensor:
    """Returns W − Σ_{i ≤ count} σ_i u_i v_iᵀ, with the singular value decomposition of W − W_base."""
    u, s, vh = torch.linalg.svd(weight - base, full_matrices=False)
    return weight - (u[:, :count] * s[:count]) @ vh[:count]


def matrices(model: PreTrainedModel) -> Iterator[tuple[str, nn.Parameter]]:
    """Yields names and weights of all linear layers except the head, as quantisation and pruning tools choose them.

    Raises `ValueError` for a model that holds its experts in one tensor: they would stay as they were."""
    experts = next((name for name, p in model.named_parameters() if p.dim() == 3), None)
    if experts is not None:
        raise ValueError(
            f"{type(model).__name__} has its experts in one tensor, {experts!r}, which edits of the weights do not reach. "
            "Leave them out."
        )
    head = model.get_output_embeddings()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            yield f"{name}.weight", module.weight


def _edit_matrices(model: PreTrainedModel, edit: Callable[[torch.Tensor], torch.Tensor]) -> None:
    transposed = {id(m.weight) for m in model.modules() if isinstance(m, Conv1D)}  # (inputs, outputs)
    for _, weight in matrices(model):
        if id(weight) in transposed:
            weight.copy_(edit(weight.T.contiguous()).T)
        else:
            weight.copy_(edit(weight))


def _base_weights(
    model: PreTrainedModel, base: PreTrainedModel | None, adversary: Adversary
) -> Mapping[str, torch.Tensor]:
    if base is None:
        raise ValueError(
            f"Adversary {adversary.name!r} has edit={adversary.edit!r}, which reads the public base. Give the base model."
        )
    reference = dict(base.named_parameters())
    for name, p in model.named_parameters():
        if name not in reference or reference[name].shape != p.shape:
            raise ValueError(
                f"Adversary {adversary.name!r} has edit={adversary.edit!r}, and the base model has no {name!r} of shape "
                f"{tuple(p.shape)}. Give the base that the model was made from."
            )
    return reference
