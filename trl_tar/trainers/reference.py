"""θ_G0, the model as it was given: what the anchors and DPO compare with, and what a checkpoint is bound to."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from ..distributed.gradients import Batch
from ..distributed.sharding import like, whole
from ..models.forward_passes import at_labels, head_at_labels, in_eval_mode
from ..optim.offload import to_host
from ..simulation.batches import Batches
from ..simulation.restored import swapped_in
from .data_checks import check_reference


STATE_FILE = "tar_state.json"


class Reference:
    """The trained weights of a model at construction, θ_G0; for the anchors, another model can stand in for it.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model that is trained.
        parameters (`list[torch.nn.Parameter]`):
            Its trained parameters.
        other ([`~transformers.PreTrainedModel`], *optional*):
            The model that the anchors compare with, of the same architecture. By default that is θ_G0.
        accelerator ([`~accelerate.Accelerator`]):
            Device and autocast.
        offload (`bool`):
            Keep the weights on the host.

    Attributes:
        weights (`list[tuple[torch.nn.Parameter, torch.Tensor]]`):
            Each trained parameter and its value at construction.

    Raises:
        `ValueError`: if `other` has other layers, another width or other tokens.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        parameters: list[nn.Parameter],
        other: PreTrainedModel | None,
        accelerator: Accelerator,
        offload: bool,
    ):
        if other is not None:
            check_reference(other, model)
            other.to(accelerator.device).eval()
        self.model, self.other, self.accelerator = model, other, accelerator
        copied = to_host if offload else torch.clone
        self.weights = [(p, copied(p.detach())) for p in parameters]

    def rebind(self, parameters: list[nn.Parameter]) -> None:
        """Takes the parameters that FSDP2 has put in the place of those at construction, and shards the values alike."""
        values = [value for _, value in self.weights]
        self.weights = [
            (p, like(value, p) if isinstance(p, DTensor) and not isinstance(value, DTensor) else value)
            for p, value in zip(parameters, values, strict=True)
        ]

    def whole_weights(self) -> Iterator[torch.Tensor]:
        """Each value of θ_G0 with all its shards. All devices call it."""
        return (whole(value) for _, value in self.weights)

    def swapped_in(self) -> AbstractContextManager[None]:
        """The model at θ_G0, for forward passes without gradient."""
        return swapped_in(self.model, self.weights)

    def outputs(
        self, batch: Batch, hidden_states: bool, logits: bool
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor | None]:
        """Makes one forward pass of the model at θ_G0, or of the other model, without gradient.

        Args:
            batch (`dict[str, torch.Tensor]`):
                What [`labelled_logits`] takes.
            hidden_states, logits (`bool`):
                What is kept.

        Returns:
            `tuple`: the hidden states, each of shape `(B, T, D)`, and the logits as [`labelled_logits`] gives them; `()` and
            `None` for what was not asked for.
        """
        arguments = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        arguments["output_hidden_states"] = hidden_states
        model = self.model if self.other is None else self.other
        with head_at_labels(model, batch):
            if self.other is not None:
                with torch.no_grad(), self.accelerator.autocast():
                    outputs = self.other(**arguments)
            else:
                with self.swapped_in(), in_eval_mode(self.model):
                    outputs = self.model(**arguments)
        return outputs.hidden_states or (), at_labels(outputs.logits, batch)[0] if logits else None

    def add_log_probs(self, rows: list[dict], batches: Batches, size: int) -> None:
        """Adds to rows of pairs the log-probabilities under θ_G0, `size` rows in each pass, unless they have them."""
        if "reference_log_probs" not in rows[0]:
            with self.swapped_in():
                batches.add_reference_to_rows(self.model, rows, size)


def save_anchor(checkpoint: str, weights: Iterable[torch.Tensor], write: bool = True) -> None:
    """Writes the hash of θ_G0 into the checkpoint. Every device calls it, as each has a part of sharded weights; one writes."""
    sha256 = _hash(weights)
    if write:
        (Path(checkpoint) / STATE_FILE).write_text(json.dumps({"reference_sha256": sha256}))


def check_anchor(checkpoint: str, weights: Iterable[torch.Tensor]) -> None:
    """Raises `ValueError` for a checkpoint with another θ_G0, since the anchor would move, or with no complete hash of it."""
    try:
        saved = json.loads((Path(checkpoint) / STATE_FILE).read_text())["reference_sha256"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError, TypeError):
        raise ValueError(
            f"The checkpoint {str(checkpoint)!r} has no complete {STATE_FILE}, so TARTrainer did not write it to its end. "
            "Resume from an earlier checkpoint of TARTrainer, or give the model as `model`."
        ) from None
    if saved != _hash(weights):
        raise ValueError(
            f"The checkpoint {str(checkpoint)!r} was trained from other weights than the model given here, and the anchor "
            "would move. Give the trainer the model that the first run started from."
        )


def _hash(weights: Iterable[torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for value in weights:
        digest.update(value.cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
