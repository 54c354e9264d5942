"""Muon for the matrices of layers, AdamW for what is no such matrix, as one optimizer."""

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import nn


BETAS, EPSILON = (0.9, 0.999), 1e-8  # AdamW's, the defaults of torch and of Hugging Face's trainers


class MuonWithAdamW(torch.optim.Optimizer):
    """Orthogonalises the momentum of every matrix (https://kellerjordan.github.io/posts/muon), by torch's own
    [`~torch.optim.Muon`], and steps the rest by [`~torch.optim.AdamW`].

    Muon's step is scaled to the root mean square of AdamW's (https://huggingface.co/papers/2502.16982), so that one learning rate
    fits both.

    Args:
        params (`Iterable`):
            Parameters, or groups of them.
        lr (`float`):
            Learning rate.
        weight_decay (`float`, *optional*, defaults to `0.0`):
            Decoupled weight decay.
        embeddings (`Collection[torch.nn.Parameter]`, *optional*):
            Matrices whose rows are tokens, which AdamW steps: each row has a gradient of its own.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        embeddings: Collection[nn.Parameter] = (),
    ):
        self._embeddings = {id(p) for p in embeddings}
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Takes one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            settings = {"lr": group["lr"], "weight_decay": group["weight_decay"]}
            matrices = [p for p in group["params"] if p.dim() == 2 and id(p) not in self._embeddings]
            orthogonalised = {id(p) for p in matrices}
            rest = [p for p in group["params"] if id(p) not in orthogonalised]
            if matrices:
                self._step(torch.optim.Muon(matrices, adjust_lr_fn="match_rms_adamw", **settings))
            if rest:
                self._step(torch.optim.AdamW(rest, betas=BETAS, eps=EPSILON, **settings))
        return loss

    def _step(self, part: torch.optim.Optimizer) -> None:
        part.state = self.state  # which outlives the part
        part.step()
