"""Abliteration: directions that tell hazardous prompts from harmless ones are removed from the weights.

They are fitted on the model under attack (https://huggingface.co/papers/2406.11717), so that a defence that moved them is
attacked where it moved them to. [`Ablation`] says how they are removed; its defaults are the paper's, and
`abliteration_search.py` looks for better ones.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..losses import IGNORED
from ..models.forward_passes import at_last_token, in_eval_mode, last_token_states


MAX_PROMPTS = 512  # of each set, our choice
BATCH_SIZE = 64  # prompts of one forward pass; memory and time alone depend on it
# layers that write into the residual stream, by the last part of their name; `down_proj` may be one tensor of all experts
WRITERS = ("o_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "out_proj", "fc2", "wo")
# what chooses the experts of a token, by the last part of its name
ROUTERS = ("gate", "router")
# share of the direction that may be left, our choice between 0.1, which Gemma 2 and OLMo 2 leave since a norm behind the
# writers turns some of it back, and 1, which is left where the writers are not known
MAX_LEFT = 0.5


@dataclass(frozen=True)
class Kernel:
    """How much of a direction each layer loses: most at one layer, and less with the distance to it.

    Args:
        position (`float`, *optional*, defaults to `0.0`):
            Layer that loses most, from 0; between two layers where it is no whole number.
        width (`float`, *optional*, defaults to `1.0`):
            Distance in layers over which `maximum` falls to `minimum`, in a straight line.
        maximum, minimum (`float`, *optional*, default to `1.0`):
            Weights at the position, and from `width` on. 0 leaves a layer as it is, 1 removes the direction, and more turns it
            around.
    """

    position: float = 0.0
    width: float = 1.0
    maximum: float = 1.0
    minimum: float = 1.0

    def weight(self, layer: int) -> float:
        """The weight of a layer."""
        fallen = min(abs(layer - self.position) / self.width, 1.0)
        return self.maximum + fallen * (self.minimum - self.maximum)


@dataclass(frozen=True)
class Ablation:
    """How directions are removed; the defaults remove one direction everywhere, as the paper does.

    Args:
        attention, mlp (`Kernel`, *optional*):
            How much the layers of attention, and all other ones, lose.
        layer (`float`, *optional*):
            The direction of this layer is removed from all of them; between two layers, a mean of theirs. By default each
            layer loses its own.
        orthogonal (`bool`, *optional*, defaults to `False`):
            Leave the direction of the harmless mean in: what harmless prompts have in common is kept.
        keep_norms (`bool`, *optional*, defaults to `False`):
            Scale every row of a matrix, the weights of one output, back to the norm that it had.
        embeddings (`bool`, *optional*, defaults to `True`):
            Remove the direction from embeddings too: that of `layer`, or of the first layer.
        routers (`bool`, *optional*, defaults to `False`):
            Routers of experts do not see the direction either, by the weights of `mlp`.
    """

    attention: Kernel = field(default_factory=Kernel)
    mlp: Kernel = field(default_factory=Kernel)
    layer: float | None = None
    orthogonal: bool = False
    keep_norms: bool = False
    embeddings: bool = True
    routers: bool = False


@dataclass(frozen=True)
class Matrix:
    """A parameter that writes into the residual stream, or a router's, which reads it.

    Args:
        parameter (`nn.Parameter`):
            Its values: a matrix, a bias, or matrices of several experts.
        axis (`int`):
            The axis of the residual stream.
        layer (`int`, *optional*):
            Its layer; `None` for embeddings.
        part (`str`):
            `"attention"`, `"mlp"`, `"router"` or `"embedding"`.
    """

    parameter: nn.Parameter
    axis: int
    layer: int | None
    part: str

    def remove(self, direction: torch.Tensor, weight: float = 1.0, keep_norms: bool = False) -> None:
        """Sets W ← W − weight · r rᵀ W, in place, for outputs W x in the stream; then `keep_norms` scales each row to its norm."""
        wide = torch.promote_types(self.parameter.dtype, torch.float32)
        rows = self.parameter.to(wide).movedim(self.axis, -1)  # (…, H)
        r = direction.to(rows)
        changed = rows - weight * (rows @ r)[..., None] * r
        if keep_norms and rows.dim() > 1:
            tiny = torch.finfo(wide).tiny
            changed = changed * (rows.norm(dim=-2, keepdim=True) / changed.norm(dim=-2, keepdim=True).clamp_min(tiny))
        self.parameter.copy_(changed.movedim(-1, self.axis))


@torch.no_grad()
def abliterate(model: PreTrainedModel, hazardous: Dataset, harmless: Dataset) -> torch.Tensor:
    """Fits one direction and removes it from the residual stream, in place: W ← W − r rᵀ W for each matrix that writes there.

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
    difference = _difference(first, second)  # (layers, H)
    length = difference.norm(dim=-1)
    direction = difference / length.clamp_min(torch.finfo(length.dtype).tiny)[:, None]
    spread = torch.cat([states - states.mean(1, keepdim=True) for states in (first, second)], 1)  # (layers, 2N, H)
    deviation = torch.einsum("lnh,lh->ln", spread, direction).square().mean(1).sqrt()
    # layer 0 is the embedding, and the last one is normalised: neither is the stream that layers write into
    separation = (length / deviation.clamp_min(1e-12))[1:-1] if len(length) > 2 else (length / deviation)
    return direction[1:-1][separation.argmax()] if len(length) > 2 else direction[separation.argmax()]


def _difference(hazardous: torch.Tensor, harmless: torch.Tensor) -> torch.Tensor:
    """μ₁ − μ₀ of states `(layers, N, H)`; `ValueError` where no layer tells them apart."""
    difference = hazardous.mean(1) - harmless.mean(1)
    length = difference.norm(dim=-1)
    if not length.isfinite().all() or length.max() == 0:
        raise ValueError(
            "No direction tells the hazardous prompts from the harmless ones. Give two different data sets."
        )
    return difference


@dataclass(frozen=True)
class Directions:
    """Means of the residual stream after each layer, in float32, shape `(layers, H)`.

    Args:
        difference (`torch.Tensor`):
            μ₁ − μ₀, hazardous − harmless.
        harmless (`torch.Tensor`):
            μ₀.
    """

    difference: torch.Tensor
    harmless: torch.Tensor

    @classmethod
    def fitted(cls, model: PreTrainedModel, hazardous: Dataset, harmless: Dataset) -> "Directions":
        """Fits them at the last token of the prompts; `ValueError` for two sets of one mean."""
        first, second = stream_states(model, hazardous), stream_states(model, harmless)
        return cls(_difference(first, second), second.mean(1))

    def of(self, layer: float, orthogonal: bool) -> torch.Tensor:
        """The unit direction of a layer, or between two layers, shape `(H,)`; with `orthogonal` it has no part along μ₀."""
        below = min(int(layer), len(self.difference) - 1)
        above = min(below + 1, len(self.difference) - 1)
        difference = self._unit(below, orthogonal).lerp(self._unit(above, orthogonal), layer - int(layer))
        return difference / difference.norm().clamp_min(torch.finfo(difference.dtype).tiny)

    def _unit(self, layer: int, orthogonal: bool) -> torch.Tensor:
        difference = self.difference[layer]
        if orthogonal:
            mean = nn.functional.normalize(self.harmless[layer], dim=0)
            difference = difference - (difference @ mean) * mean
        return nn.functional.normalize(difference, dim=0)


def ablate(matrices: Sequence[Matrix], directions: Directions, ablation: Ablation) -> None:
    """Removes the directions from the matrices of a model, in place."""
    kernels = {"attention": ablation.attention, "mlp": ablation.mlp, "router": ablation.mlp}
    for matrix in matrices:
        if not {"embedding": ablation.embeddings, "router": ablation.routers}.get(matrix.part, True):
            continue
        own = 0 if matrix.layer is None else matrix.layer
        weight = 1.0 if matrix.layer is None else kernels[matrix.part].weight(matrix.layer)
        if weight:
            direction = directions.of(own if ablation.layer is None else ablation.layer, ablation.orthogonal)
            # rows of embeddings and routers belong to a token or an expert, not to an output in the stream
            matrix.remove(direction, weight, ablation.keep_norms and matrix.part in ("attention", "mlp"))


def last_prompt_states(model: PreTrainedModel, rows: Dataset) -> torch.Tensor:
    """Hidden states of the last prompt token of the first `MAX_PROMPTS` rows, shape `(layers + 1, N, H)`, in float32."""
    return torch.cat([last_token_states(model, *batch).float() for batch in _prompts(model, rows)], 1)


def stream_states(model: PreTrainedModel, rows: Dataset) -> torch.Tensor:
    """The residual stream after each layer, before any final norm, where [`last_prompt_states`] reads it: `(layers, N, H)`."""
    seen: list[torch.Tensor] = []
    states = []
    with contextlib.ExitStack() as hooks:
        for layer in _layers(model):
            hook = layer.register_forward_hook(lambda _, inputs, output: seen.append(_first(output)))
            hooks.callback(hook.remove)
        for ids, mask in _prompts(model, rows):
            seen.clear()
            last_token_states(model, ids, mask)  # which refuses models of several streams
            states.append(torch.stack([at_last_token(output, mask).float() for output in seen]))
    return torch.cat(states, 1)


def _first(output: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    return output if isinstance(output, torch.Tensor) else output[0]


def _prompts(model: PreTrainedModel, rows: Dataset) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and mask of the prompts of the first `MAX_PROMPTS` rows, in batches padded on the right."""
    prompts = [_prompt(row) for row in rows.select(range(min(len(rows), MAX_PROMPTS)))]
    for start in range(0, len(prompts), BATCH_SIZE):
        batch = prompts[start : start + BATCH_SIZE]
        longest = max(map(len, batch))
        ids = torch.tensor([p + [0] * (longest - len(p)) for p in batch], device=model.device)
        mask = torch.tensor([[1] * len(p) + [0] * (longest - len(p)) for p in batch], device=model.device)
        yield ids, mask


def _along(model: PreTrainedModel, rows: Dataset, direction: torch.Tensor) -> torch.Tensor:
    """Norm of the residual stream along the direction, over layers and prompts."""
    return (last_prompt_states(model, rows)[:-1] @ direction).norm()  # the last one is normalised


def remove_direction(model: PreTrainedModel, direction: torch.Tensor) -> None:
    """Sets W ← W − r rᵀ W, in place, for embeddings and for matrices and biases that write into the residual stream."""
    if not direction.isfinite().all() or direction.norm() == 0:
        raise ValueError("The direction is zero or not finite. Fit it on two different data sets.")
    for matrix in matrices_of(model, len(direction)):
        if matrix.part != "router":
            matrix.remove(direction / direction.norm())


def matrices_of(model: PreTrainedModel, width: int) -> list[Matrix]:
    """What writes into a residual stream of that width, and the routers that read it; `ValueError` for unknown names.

    Experts that are held in one tensor, `(experts, H, inputs)` or `(experts, inputs, H)`, are among them, with their biases."""
    found = []
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if isinstance(module, nn.Embedding) and module.embedding_dim == width:  # of tokens, or of learned positions
            found.append(Matrix(module.weight, 1, None, "embedding"))
        elif isinstance(module, nn.Linear | Conv1D) and last in WRITERS:
            found.append(Matrix(module.weight, int(isinstance(module, Conv1D)), layer_of(name), _part(name)))
            if module.bias is not None:
                found.append(Matrix(module.bias, 0, layer_of(name), _part(name)))
        own = dict(module.named_parameters(recurse=False))
        if last in ROUTERS and "weight" in own and own["weight"].dim() == 2 and own["weight"].shape[1] == width:
            found.append(Matrix(own["weight"], 1, layer_of(name), "router"))
        found += _experts(own, name, width)
    if not any(matrix.part in ("attention", "mlp") for matrix in found):
        raise ValueError(
            f"{type(model).__name__} has no layer named {', '.join(WRITERS)}, so what writes into its residual stream is "
            "not known. Leave abliteration out."
        )
    return found


def _experts(own: Mapping[str, nn.Parameter], name: str, width: int) -> Iterator[Matrix]:
    """The tensors of all experts at once among a module's own parameters."""
    for part in WRITERS:
        if part not in own or own[part].dim() != 3:
            continue
        shape, gates = own[part].shape, own.get(part.replace("down", "gate_up"))
        # (experts, H, inputs) as of `nn.Linear`, or (experts, inputs, H); where both are alike wide, the tensor that reads
        # the stream, with twice as many outputs, says which
        transposed = shape[1] != width or (
            shape[2] == width and gates is not None and gates is not own[part] and gates.shape[1] == width
        )
        yield Matrix(own[part], 2 if transposed else 1, layer_of(name), "mlp")
        bias = own.get(f"{part}_bias")
        if bias is not None:
            yield Matrix(bias, 1, layer_of(name), "mlp")


def layer_of(name: str) -> int | None:
    """The number of the layer that a module belongs to: the first in its name."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def _part(name: str) -> str:
    return "attention" if "att" in name.rsplit(".", 1)[0] else "mlp"


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers of the model, each the module whose name ends in the first number."""
    writers = (name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in (*WRITERS, "experts"))
    found = dict.fromkeys(match[0] for name in writers if (match := re.match(r"(?:[^.\d][^.]*\.)*\d+(?=\.)", name)))
    return [model.get_submodule(name) for name in found]


def _prompt(row: dict[str, list[int]]) -> list[int]:
    """The tokens before the first one that is predicted; the whole row where all are predicted."""
    start = next((i for i, label in enumerate(row["labels"]) if label != IGNORED), len(row["labels"]))
    return row["input_ids"][:start] or row["input_ids"]
