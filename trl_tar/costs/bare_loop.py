"""The paper's outer step without a trainer: the loop that a trainer's time and memory are compared with."""

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


FIRST_TOKEN = 5  # random rows leave out lower ids: in the tokenizers of the embedded worlds those are special tokens


class BareLoop:
    """An outer step with nothing around it: it has no trainer, no snapshot and no checks, and does not put the weights back.

    It makes the passes of [`Cost.outer_step`]. Its losses are written out instead of imported, so that the comparison also
    counts what the package's losses cost more. It frees a tensor as soon as nothing reads it any more.

    Args:
        model ([`~transformers.PreTrainedModel`]):
            Model to train in place. A LoRA attack keeps its adapter from one outer step to the next.
        cost ([`Cost`]):
            Size of the outer step.
        bf16 (`bool`, *optional*, defaults to `False`), activation_checkpointing (`bool`, *optional*, defaults to `False`):
            As in [`TARConfig`].
    """

    def __init__(self, model: PreTrainedModel, cost: Cost, bf16: bool = False, activation_checkpointing: bool = False):
        self.cost, self.autocast = cost, torch.autocast(model.device.type, torch.bfloat16, enabled=bf16)
        self.whole = self.attacked = list(model.parameters())
        self.model: Any = model.train()  # a PeftModel for a LoRA attack
        self.vocab_size = vocab_size(model)
        if activation_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if cost.lora_r is not None:
            self.model = get_peft_model(model, lora_config(cost.adversary, model))
            self.attacked = [p for p in self.model.parameters() if p.requires_grad]
        self._freeze(False)
        self.outer = torch.optim.AdamW(self.whole, lr=1e-5, fused=True)  # as in `trainer_for`
        self.generator = torch.Generator().manual_seed(0)

    def step(self) -> None:
        """Makes one outer step: the pass of the reference, the retain gradient, the attacks, and the optimizer's step."""
        outer = self._retain()
        for _ in range(self.cost.adversaries):
            self._attack(outer)
        for p, gradient in outer.items():
            p.grad = gradient
        self.outer.step()
        self.outer.zero_grad()

    def _retain(self) -> dict[nn.Parameter, torch.Tensor]:
        """Makes the passes of the reference and of the retain loss, and returns the gradient of each parameter."""
        ids = self._rows()
        with self.model.disable_adapter() if self.cost.lora_r is not None else nullcontext():
            with torch.no_grad(), self.autocast:
                outputs = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
                reference, logits = outputs.hidden_states, outputs.logits if self.cost.output_anchor else None
                del outputs
            with self.autocast:
                out = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
                anchor = [(h - r).pow(2).sum(-1).mean() for h, r in zip(out.hidden_states, reference, strict=True)]
                loss = next_token_loss(out.logits, ids) + torch.stack(anchor).mean()
                if logits is not None:
                    loss = loss + divergence(out.logits, logits)
            loss.backward()
        outer = {p: p.grad for p in self.whole if p.grad is not None}
        for p in outer:
            p.grad = None
        return outer

    def _attack(self, outer: dict[nn.Parameter, torch.Tensor]) -> None:
        """Makes the passes of one attack, and adds the tamper-resistance gradients to `outer`."""
        x_tr = self._rows()
        optimizer_class, arguments = optimizer_class_and_arguments(self.cost.adversary)
        inner = optimizer_class(self.attacked, **arguments)
        for name in self.cost.attack:
            if name == "attack":
                self._step_attack(inner)
            else:
                self._judge(x_tr, outer)

    def _step_attack(self, inner: torch.optim.Optimizer) -> None:
        ids = self._rows()
        self._freeze(True)
        with self.autocast:
            loss = next_token_loss(self.model(input_ids=ids, use_cache=False).logits, ids)
        loss.backward()
        self._freeze(False)
        inner.step()
        inner.zero_grad()

    def _judge(self, x_tr: torch.Tensor, outer: dict[nn.Parameter, torch.Tensor]) -> None:
        """Adds the gradient of L_TR, the negative entropy of the next token, at the attacked weights to `outer`."""
        with self.autocast:
            log_p = self.model(input_ids=x_tr, use_cache=False).logits[:, :-1].log_softmax(-1)
            loss = (log_p.exp() * log_p).sum(-1).mean()
        gradients = torch.autograd.grad(loss, list(outer))
        for total, gradient in zip(outer.values(), gradients, strict=True):
            total.add_(gradient)

    def _freeze(self, frozen: bool) -> None:
        """Freezes or unfreezes the weights below a LoRA adapter, which take no gradient in the attack's own passes."""
        if self.cost.lora_r is not None:
            for p in self.whole:
                p.requires_grad_(not frozen)

    def _rows(self) -> torch.Tensor:
        """Random token ids of shape `(batch_size, length)`, on the model's device."""
        size = (self.cost.batch_size, self.cost.length)
        return torch.randint(FIRST_TOKEN, self.vocab_size, size, generator=self.generator).to(self.model.device)


def vocab_size(model: PreTrainedModel) -> int:
    """The number of tokens that the model embeds, read from its weights as configurations name it differently."""
    return len(model.get_input_embeddings().weight)


def divergence(logits: torch.Tensor, reference_logits: torch.Tensor) -> torch.Tensor:
    """Mean KL divergence of the next token from the reference's distribution, in nats; both logits are `(B, T, V)`."""
    log_p, log_p_ref = (rows[:, :-1].flatten(0, 1).log_softmax(-1) for rows in (logits, reference_logits))
    return F.kl_div(log_p, log_p_ref, reduction="batchmean", log_target=True)


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the next token, in nats, at all positions but the last; logits `(B, T, V)`, ids `(B, T)`."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
