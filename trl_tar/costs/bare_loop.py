"""The paper's loop without a trainer, to measure against."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from peft import get_peft_model
from torch import nn
from transformers import PreTrainedModel

from ..models.lora import lora_config
from ..optim.attack_optimizers import optimizer_class_and_arguments
from .cost import Cost


class BareLoop:
    """An outer step with nothing around it: no trainer, no snapshot, no checks; the weights are not put back.

    Its losses are written out, so that what ours cost more is counted too. What is needed no more is freed at once.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            The model; a LoRA attack keeps its adapter from one outer step to the next.
        cost ([`Cost`]):
            Size of a step.
        bf16 (`bool`, *optional*, defaults to `False`), activation_checkpointing (`bool`, *optional*, defaults to `False`):
            As in [`TARConfig`].
    """

    def __init__(self, model: PreTrainedModel, cost: Cost, bf16: bool = False, activation_checkpointing: bool = False):
        self.cost, self.autocast = cost, torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
        self.whole = self.attacked = list(model.parameters())
        self.model: Any = model.train()  # of peft, with an adapter
        self.vocab_size = vocab_size(model)
        if activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if cost.lora_r is not None:
            self.model = get_peft_model(model, lora_config(cost.adversary, model))
            self.attacked = [p for p in self.model.parameters() if p.requires_grad]
        self._freeze(False)
        self.outer = torch.optim.AdamW(self.whole, lr=1e-5, fused=True)
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """One forward pass of the reference, then the retain gradient, the attacks, and the step."""
        outer = self._retain()
        for _ in range(self.cost.adversaries):
            self._attack(outer)
        for p, gradient in outer.items():
            p.grad = gradient
        self.outer.step()
        self.outer.zero_grad()

    def _retain(self) -> dict[nn.Parameter, torch.Tensor]:
        ids = self._rows()
        with self.model.disable_adapter() if self.cost.lora_r is not None else nullcontext():
            with torch.no_grad(), self.autocast:
                reference = self.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            with self.autocast:
                out = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
                anchor = [(h - r).pow(2).sum(-1).mean() for h, r in zip(out.hidden_states, reference, strict=True)]
                loss = next_token_loss(out.logits, ids) + torch.stack(anchor).mean()
            loss.backward()
        outer = {p: p.grad for p in self.whole if p.grad is not None}
        for p in outer:
            p.grad = None
        return outer

    def _attack(self, outer: dict[nn.Parameter, torch.Tensor]) -> None:
        x_tr = self._rows()
        optimizer, arguments = optimizer_class_and_arguments(self.cost.adversary)
        inner = optimizer(self.attacked, **arguments)
        for step in range(self.cost.num_steps):
            ids = self._rows()
            self._freeze(True)
            with self.autocast:
                loss = next_token_loss(self.model(input_ids=ids, use_cache=False).logits, ids)
            loss.backward()
            self._freeze(False)
            inner.step()
            inner.zero_grad()
            if (step + 1) % self.cost.interval == 0:
                self._judge(x_tr, outer)

    def _judge(self, x_tr: torch.Tensor, outer: dict[nn.Parameter, torch.Tensor]) -> None:
        with self.autocast:
            log_p = self.model(input_ids=x_tr, use_cache=False).logits[:, :-1].log_softmax(-1)
            loss = (log_p.exp() * log_p).sum(-1).mean()
        gradients = torch.autograd.grad(loss, list(outer))
        for total, gradient in zip(outer.values(), gradients, strict=True):
            total.add_(gradient)

    def _freeze(self, frozen: bool) -> None:
        """What a LoRA attack does not train takes no gradient in its passes."""
        if self.cost.lora_r is not None:
            for p in self.whole:
                p.requires_grad_(not frozen)

    def _rows(self) -> torch.Tensor:
        size = (self.cost.batch_size, self.cost.length)
        return torch.randint(5, self.vocab_size, size, generator=self.generator).to(self.model.device)


def vocab_size(model: PreTrainedModel) -> int:
    """Tokens that it embeds, wherever its configuration has the number."""
    return len(model.get_input_embeddings().weight)


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean over all positions but the last."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
