"""A model whose tensors have shapes and no content, and the passes of an outer step that are made with it."""

import json
import math
from collections.abc import Callable, Iterator
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
from ..losses import CHUNK, language_modeling_loss, max_entropy_loss
from ..models.forward_passes import next_token_logits
from ..models.lora import lora_config
from ..optim.stochastic_rounding import at_least_float32, in_bfloat16, step_in_float32


# floating-point operations of kernels that torch does not count
KERNELS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
    torch.ops.aten._grouped_mm: lambda left, right, *_, **__: 2 * math.prod(left) * right[-1],
}


@dataclass(frozen=True)
class Mode:
    """How memory is saved.

    Args:
        lora_r (`int`, *optional*):
            Rank of a LoRA attack; all parameters by default.
        offload, optimizer_in_backward, activation_checkpointing, bf16 (`bool`, *optional*):
            As in [`TARConfig`].
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Of the weights, or `torch.bfloat16`.
        optimizer (`str`, *optional*, defaults to `"adamw"`):
            Of the attack, or `"adamw_8bit"`.
        devices (`int`, *optional*, defaults to `1`):
            Devices that FSDP2 shards parameters, gradients and optimizers over.
    """

    lora_r: int | None = None
    offload: bool = False
    optimizer_in_backward: bool = False
    activation_checkpointing: bool = False
    bf16: bool = True
    dtype: torch.dtype = torch.float32
    optimizer: str = "adamw"
    devices: int = 1

    def __str__(self) -> str:
        words = [
            "all parameters" if self.lora_r is None else f"LoRA, rank {self.lora_r}",
            "offload" * self.offload,
            "optimizer in backward" * self.optimizer_in_backward,
            "activation checkpointing" * self.activation_checkpointing,
            "weights in bfloat16" * (self.dtype == torch.bfloat16),
            "8-bit optimizer" * (self.optimizer == "adamw_8bit"),
            f"FSDP2 on {self.devices}" * (self.devices > 1),
        ]
        return ", ".join(word for word in words if word)


class _GroupedProducts(TorchDispatchMode):
    """Gives the products of experts in one tensor their shapes, which torch knows in bfloat16 alone."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is not torch.ops.aten._grouped_mm.default:
            return func(*args, **(kwargs or {}))
        left, right, offsets = args[:3]  # rows by expert; a matrix for each expert, or rows by expert too
        experts = () if right.ndim == 3 else offsets.shape
        return left.new_empty(*experts, left.shape[-2], right.shape[-1])


@contextmanager
def without_content() -> Iterator[None]:
    """Tensors that are made here have a shape, and no memory."""
    with FakeTensorMode(), _GroupedProducts():
        yield


@dataclass(frozen=True)
class Pass:
    """A pass of the outer step, forward and backward to some parameters; forward alone for none."""

    name: str
    model: nn.Module
    batch: Batch
    parameters: list[nn.Parameter]
    loss: Callable[[nn.Module, Batch], Any]
    # what `optimizer_in_backward` does with a gradient, if anything
    consume: Callable[[nn.Parameter, torch.Tensor], None] | None = None

    def run(self, mode: Mode, share: int = 1) -> list[torch.Tensor]:
        """Makes the pass; returns its gradient, or what one of so many devices keeps of it."""
        if not self.parameters:
            with torch.no_grad():
                self.loss(self.model, self.batch)
            return []
        kept: list[torch.Tensor] = []

        def shard(p: nn.Parameter, gradient: torch.Tensor) -> None:
            kept.append(torch.empty(math.ceil(p.numel() / share), dtype=at_least_float32(p)))

        consume = shard if share > 1 else self.consume if mode.optimizer_in_backward else None
        if consume is None:
            return mean_gradient(self.model, self.parameters, [self.batch], self.loss)[1]
        consumed_gradient(self.model, self.parameters, [self.batch], self.loss, consume)
        return kept


@dataclass(frozen=True)
class Models:
    """The model, the one under attack, what the attack trains, and the reference's hidden states once they are made."""

    whole: nn.Module
    attacked: nn.Module
    attacking: list[nn.Parameter]
    reference: list[torch.Tensor]

    @classmethod
    def of(cls, config: str, config_class: type, mode: Mode) -> "Models":
        fields = json.loads(config)
        whole, _ = _empty(config_class.from_dict(fields), None, mode)
        attacked, adapter = _empty(config_class.from_dict(fields), mode.lora_r, mode)
        return cls(whole, attacked, adapter or list(attacked.parameters()), [])

    def passes(self, rows: int, length: int) -> list[Pass]:
        """In the order of an outer step."""
        ids = torch.zeros(rows, length, dtype=torch.long)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        attacking = set(self.attacking)
        base = [p for p in self.attacked.parameters() if p not in attacking] or self.attacking

        def likelihood(model: nn.Module, batch: Batch):
            return language_modeling_loss(next_token_logits(model, batch), batch["labels"])

        def hidden_states(model: nn.Module, batch: Batch):
            self.reference[:] = _outputs(model, batch).hidden_states

        def retain(model: nn.Module, batch: Batch):
            return _retain(model, batch, self.reference)

        return [
            Pass("reference", self.whole, batch, [], hidden_states),
            Pass("retain", self.whole, batch, list(self.whole.parameters()), retain),
            Pass("attack", self.attacked, batch, self.attacking, likelihood, _step_without_state),
            Pass("judgement", self.attacked, batch, base, _entropy, lambda p, gradient: None),
        ]


def _empty(config: PretrainedConfig, lora_r: int | None, mode: Mode) -> tuple[nn.Module, list[nn.Parameter]]:
    """A model whose tensors have no content, and the parameters of its LoRA adapter."""
    with unset_fake_temporarily(), torch.device("meta"):  # which has numbers of its own
        model: Any = AutoModelForCausalLM.from_config(config, dtype=mode.dtype)
        if lora_r is not None:
            adapter = lora_config(Adversary("plan", "plan", lora_r=lora_r), model)
            model = get_peft_model(model, adapter, low_cpu_mem_usage=True)
    made: dict[nn.Parameter, nn.Parameter] = {}  # tied ones stay tied
    for module in model.modules():
        for name, p in module._parameters.items():
            if p is not None:
                module._parameters[name] = made.setdefault(p, nn.Parameter(torch.empty(p.shape, dtype=p.dtype)))
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
    if mode.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if mode.bf16:  # as accelerate does it
        autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=not mode.offload)
        model.forward = convert_outputs_to_fp32(autocast(model.forward))
    return model.train(), [p for name, p in model.named_parameters() if "lora_" in name]


def _outputs(model: nn.Module, batch: Batch) -> Any:
    arguments = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    return model(**arguments, output_hidden_states=True, use_cache=False)


def _retain(model: nn.Module, batch: Batch, reference: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The retain loss (Eq. 2, https://huggingface.co/papers/2408.00761), where no position is masked."""
    outputs = _outputs(model, batch)
    total, count = language_modeling_loss(outputs.logits, batch["labels"])
    distances = [(h - r).norm(dim=-1).mean() for h, r in zip(outputs.hidden_states, reference, strict=True)]
    reference.clear()
    return total / count + sum(distances), torch.ones(())


def _entropy(model: nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """[`max_entropy_loss`] where no position is masked: how many are cannot be known without content."""
    logits = next_token_logits(model, batch)
    if logits.numel() > CHUNK:
        return max_entropy_loss(logits, batch["labels"])
    log_p = F.log_softmax(logits[:, :-1].flatten(0, 1).clone(), dim=-1)
    return (log_p.exp() * log_p).sum(), torch.full((), len(log_p))


def _step_without_state(p: nn.Parameter, gradient: torch.Tensor) -> None:
    """What a step makes beside its state, which is there already."""
    p.grad = gradient
    optimizer = torch.optim.SGD([p], lr=1.0)
    if in_bfloat16([p]):
        step_in_float32(optimizer, torch.Generator())
    optimizer.step()
    p.grad = None
