"""A model whose tensors have shapes but no content, and the passes of an outer step on it."""

import json
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import convert_outputs_to_fp32
from peft import get_peft_model
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, PretrainedConfig

from ..adversaries.adversary import Adversary
from ..distributed.gradients import Batch, consumed_gradient, mean_gradient
from ..losses import MOST_LOGITS, kl_divergence_loss, language_modeling_loss, max_entropy_loss
from ..models.forward_passes import next_token_logits
from ..models.lora import lora_config
from ..models.training_noise import disable_training_noise
from ..optim.stochastic_rounding import at_least_float32, in_bfloat16, step_in_float32
from .cost import PassName
from .mode import Mode


# kernel → its floating-point operations, for kernels that torch's counter does not know
FLOPS_OF_KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
    torch.ops.aten._grouped_mm: lambda left, right, *_, **__: 2 * math.prod(left) * right[-1],
}


class _GroupedProducts(TorchDispatchMode):
    """Gives the grouped products of experts their shape in float32 too: torch's own rule covers bfloat16 alone."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        left, right, offsets = args[:3]  # `right` holds a matrix for each expert, or rows sorted by expert like `left`
        experts = () if right.ndim == 3 else offsets.shape
        return left.new_empty(*experts, left.shape[-2], right.shape[-1])


@contextmanager
def without_content() -> Iterator[None]:
    """Makes every tensor that is created inside have a shape but no memory."""
    with FakeTensorMode(), _GroupedProducts():
        yield


@dataclass(frozen=True)
class Pass:
    """A pass of the outer step: forward, and backward to its parameters.

    Args:
        name (`str`):
            Name of the pass in [`Cost.outer_step`].
        model (`torch.nn.Module`):
            Model that runs.
        batch (`dict[str, torch.Tensor]`):
            Batch that it reads.
        parameters (`list[torch.nn.Parameter]`):
            Parameters whose gradient is taken. Without any the pass goes forward alone.
        loss (`Callable`):
            Takes model and batch, and returns the sum of the loss and its count. A forward pass alone returns nothing.
        consume (`Callable`, *optional*):
            Takes a parameter and its gradient in the backward pass, under `optimizer_in_backward`.
    """

    name: PassName
    model: nn.Module
    batch: Batch
    parameters: list[nn.Parameter]
    loss: Callable[[nn.Module, Batch], Any]
    consume: Callable[[nn.Parameter, torch.Tensor], None] | None = None

    def run(self, mode: Mode, devices: int = 1) -> list[torch.Tensor]:
        """Makes the pass and returns the gradient that is left after it: with several devices, one device's shard of it."""
        if not self.parameters:
            with torch.no_grad():
                self.loss(self.model, self.batch)
            return []
        shards: list[torch.Tensor] = []

        def shard(p: nn.Parameter, gradient: torch.Tensor) -> None:
            shards.append(torch.empty(math.ceil(p.numel() / devices), dtype=at_least_float32(p)))

        consume = shard if devices > 1 else self.consume if mode.optimizer_in_backward else None
        if consume is None:
            return mean_gradient(self.model, self.parameters, [self.batch], self.loss)[1]
        consumed_gradient(self.model, self.parameters, [self.batch], self.loss, consume)
        return shards


@dataclass(frozen=True)
class Models:
    """The models of an outer step.

    Args:
        whole (`torch.nn.Module`):
            Model of the retain pass.
        attacked (`torch.nn.Module`):
            Model under attack, with its adapter for a LoRA attack.
        attacking (`list[torch.nn.Parameter]`):
            Parameters that the attack trains.
        reference (`list[torch.Tensor]`):
            Hidden states of the reference, and its logits for an anchor at the output, between its pass and the retain pass;
            empty at other times.
    """

    whole: nn.Module
    attacked: nn.Module
    attacking: list[nn.Parameter]
    reference: list[torch.Tensor]

    @classmethod
    def of(cls, config: str, config_class: type[PretrainedConfig], mode: Mode) -> "Models":
        """Builds the models from the JSON text of a configuration."""
        fields = json.loads(config)
        whole, _ = _empty(config_class.from_dict(fields), None, mode)
        if mode.lora_r is None:
            return cls(whole, whole, list(whole.parameters()), [])
        attacked, adapter = _empty(config_class.from_dict(fields), mode.lora_r, mode)
        return cls(whole, attacked, adapter, [])

    def passes(self, names: Collection[PassName], rows: int, length: int, output_anchor: bool) -> list[Pass]:
        """One pass of each of these names in [`Cost.outer_step`], in the order of their first use, on `rows` of `length`
        tokens."""
        ids = torch.zeros(rows, length, dtype=torch.long)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        attacking = set(self.attacking)
        base = [p for p in self.attacked.parameters() if p not in attacking] or self.attacking

        def likelihood(model: nn.Module, batch: Batch):
            return language_modeling_loss(next_token_logits(model, batch), batch["labels"])

        def reference(model: nn.Module, batch: Batch):
            outputs = _outputs(model, batch)
            self.reference[:] = [*outputs.hidden_states, *([outputs.logits] if output_anchor else [])]

        def retain(model: nn.Module, batch: Batch):
            return _retain(model, batch, self.reference)

        passes = [
            Pass("reference", self.whole, batch, [], reference),
            Pass("retain", self.whole, batch, list(self.whole.parameters()), retain),
            Pass("attack", self.attacked, batch, self.attacking, likelihood, _step_without_state),
            Pass("judgement", self.attacked, batch, base, _entropy, lambda p, gradient: None),
        ]
        return [each for each in passes if each.name in names]


def _empty(config: PretrainedConfig, lora_r: int | None, mode: Mode) -> tuple[nn.Module, list[nn.Parameter]]:
    """A model whose tensors have no content, and the parameters of its LoRA adapter; none without `lora_r`."""
    with unset_fake_temporarily(), torch.device("meta"):  # takes no memory either; fake tensors replace these below
        model: Any = AutoModelForCausalLM.from_config(config, dtype=mode.dtype)
        if lora_r is not None:
            adapter = lora_config(Adversary("plan", "plan", lora_r=lora_r), model)
            model = get_peft_model(model, adapter, low_cpu_mem_usage=True)
    emptied: dict[nn.Parameter, nn.Parameter] = {}  # one for each parameter, so that tied ones stay tied
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = emptied.setdefault(p, nn.Parameter(torch.empty(p.shape, dtype=p.dtype)))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    if mode.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if mode.bf16:  # as accelerate wraps the forward method
        autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=not mode.offload)
        model.forward = convert_outputs_to_fp32(autocast(model.forward))
    disable_training_noise(model)  # as trainers do
    return model.train(), [p for name, p in model.named_parameters() if "lora_" in name]


def _outputs(model: nn.Module, batch: Batch) -> Any:
    arguments = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return model(**arguments, output_hidden_states=True, use_cache=False)


def _retain(model: nn.Module, batch: Batch, reference: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The retain loss of a batch without padding, with a count of 1: that of Eq. 2 of
    https://huggingface.co/papers/2408.00761, and an anchor at the output if `reference` ends with logits."""
    outputs = _outputs(model, batch)
    total, count = language_modeling_loss(outputs.logits, batch["labels"])
    hidden = outputs.hidden_states
    distances = [(h - r).norm(dim=-1).mean() for h, r in zip(hidden, reference[: len(hidden)], strict=True)]
    loss = total / count + sum(distances)
    for logits in reference[len(hidden) :]:
        loss = loss + _kl_divergence(outputs.logits, logits, batch["labels"]) / count
    reference.clear()
    return loss, torch.ones(())


def _kl_divergence(logits: torch.Tensor, reference_logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Sum of [`kl_divergence_loss`] for a batch without padding, all of whose positions count as in [`_entropy`]."""
    if logits.numel() > MOST_LOGITS:
        return kl_divergence_loss(logits, reference_logits, labels)[0]
    copies = [rows[:, :-1].flatten(0, 1).clone() for rows in (logits, reference_logits)]
    log_p, log_p_ref = (F.log_softmax(rows, dim=-1, dtype=torch.float32) for rows in copies)
    return F.kl_div(log_p, log_p_ref, reduction="none", log_target=True).sum(-1).sum()


def _entropy(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and count of [`max_entropy_loss`] for a batch without padding.

    That loss selects the labelled positions, and without content their number cannot be known: here all of them count."""
    logits = next_token_logits(model, batch)
    if logits.numel() > MOST_LOGITS:
        return max_entropy_loss(logits, batch["labels"])
    log_p = F.log_softmax(logits[:, :-1].flatten(0, 1).clone(), dim=-1)
    return (log_p.exp() * log_p).sum(), torch.full((), len(log_p))


def _step_without_state(p: nn.Parameter, gradient: torch.Tensor) -> None:
    """Allocates what an optimizer step takes in addition to its state, as SGD has none: the state is counted elsewhere."""
    p.grad = gradient
    optimizer = torch.optim.SGD([p], lr=1.0)
    if in_bfloat16([p]):
        step_in_float32(optimizer, torch.Generator())
    optimizer.step()
    p.grad = None
