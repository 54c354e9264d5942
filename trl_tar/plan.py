"""Whether TAR fits a device, and how long it takes, from a model's configuration alone.

The passes and optimizer steps of an outer step are made with tensors that have shapes and no content, and their storages
counted; what lies around them is added up. So the model of memory has no constant that was fitted. L_TR is the entropy.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import convert_outputs_to_fp32
from peft import get_peft_model
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import AutoModelForCausalLM, PretrainedConfig, Trainer

from .adversary import Adversary
from .averaged_weights import is_schedule_free
from .bench import Cost
from .gradients import Batch, consumed_gradient, mean_gradient
from .ledger import Ledger
from .losses import CHUNK, language_modeling_loss, max_entropy_loss
from .offload import StateOnHost
from .simulation import create_optimizer, lora_config, next_token_logits
from .stochastic_rounding import at_least_float32, in_bfloat16, step_in_float32
from .tar_config import TARConfig


ATTENTION = {  # torch counts the kernels of GPUs alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda out, q, k, v, *_, **__: sdpa_backward_flop_count(out, q, k, v)
    ),
}
FEW = {"memory": 8, "flops": 4}  # layers that a model of more than twice as many is measured with, and twice as many
RESERVED = 0.05  # of the device's memory, for the context of CUDA and what its allocator cannot use


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


@dataclass(frozen=True)
class Plan:
    """What one mode takes.

    Args:
        mode ([`Mode`]):
            The mode.
        moment (`str`):
            Of the outer step, when a device holds most.
        device, host (`dict[str, int]`):
            Kind → bytes, on each device at that moment, and on the host for each process.
        flops (`float`):
            Of an outer step, over all devices.
    """

    mode: Mode
    moment: str
    device: dict[str, int]
    host: dict[str, int]
    flops: float

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())

    def fits(self, device_memory: float) -> bool:
        """Whether a device of so many bytes holds it, with 5 % left."""
        return self.device_bytes <= (1 - RESERVED) * device_memory

    def hours(self, steps: int, mfu: float, device_flops: float) -> float:
        """Of so many outer steps at that share of a device's floating-point operations per second."""
        return steps * self.flops / (mfu * device_flops * self.mode.devices) / 3600


def plan(config: PretrainedConfig, cost: Cost, mode: Mode, optim: str = "schedule_free_adamw") -> Plan:
    """Memory and floating-point operations of an outer step.

    Args:
        config ([`~transformers.PretrainedConfig`]):
            Of the model; no weights are loaded.
        cost ([`Cost`]):
            Size of a step; its rows are shared by the devices.
        mode ([`Mode`]):
            How memory is saved.
        optim (`str`, *optional*, defaults to `"schedule_free_adamw"`):
            Outer optimizer, as in [`TARConfig`].
    """
    rows = math.ceil(cost.batch_size / mode.devices)
    alone, size = replace(mode, devices=1), (rows, cost.length)
    share = mode.devices
    sizes, steps = _deep(config, FEW["memory"], lambda *model: _state(*model, alone, optim))
    dtype = (
        torch.bfloat16 if share > 1 and mode.bf16 else mode.dtype
    )  # FSDP2 gathers weights in the precision of a pass
    passing = replace(alone, dtype=dtype)
    peaks, gradients = _deep(config, FEW["memory"], lambda *model: _passes(*model, *size, passing, share))
    counted = Mode(mode.lora_r, activation_checkpointing=mode.activation_checkpointing, bf16=False)
    (flops,) = _deep(config, FEW["flops"], lambda *model: _flops(*model, *size, counted))
    parameters = sizes["parameters"]
    waiting = {  # what an attack does not read
        "snapshot": sizes["snapshot"] // share,
        "reference": parameters // share,
        "outer optimizer": sizes["outer optimizer"] // share,
    }
    during_attack = {"retain gradient": parameters // share}
    kept, hosted = ({}, {**waiting, **during_attack}) if mode.offload else (waiting, {})
    if share > 1:  # each process has the model and θ_G0 whole before FSDP2 shards them
        hosted = {"weights, before the first step": sizes["weights"], "reference, before the first step": parameters}
    weights = {"weights": sizes["weights"] // share}
    attack = {
        **({} if mode.offload else during_attack),
        "L_TR's gradient": sizes["L_TR's gradient"] // share,
        "attack's optimizer": sizes["attack's optimizer"] // share,
        **({"adapter": sizes["adapter"] // share} if sizes["adapter"] else {}),
    }
    read = parameters // share if mode.offload or share > 1 else 0  # FSDP2 reads from memory of its own
    # weights and gradients of the layers that are whole
    unsharded = {"layers, unsharded": 2 * sizes["layers"] * dtype.itemsize // mode.dtype.itemsize} if share > 1 else {}

    def in_pass(name: str) -> dict[str, int]:
        return {**unsharded, "gradient": gradients[name], "activations": peaks[name] - gradients[name]}

    def in_step(name: str) -> dict[str, int]:
        return {"gradient and temporaries": steps[name] // share}

    moments = {
        "reference's pass": {**weights, **kept, "reference, read": read, **in_pass("reference")},
        "retain pass": {**weights, **kept, **in_pass("retain")},
        "attack's pass": {**weights, **kept, **attack, **in_pass("attack")},
        "judgement": {**weights, **kept, **attack, **in_pass("judgement")},
        "attack's step": {**weights, **kept, **attack, **in_step("attack's step")},
        "outer step": {**weights, **kept, **in_step("outer step, offloaded" if mode.offload else "outer step")},
    }
    moment, device = max(moments.items(), key=lambda item: sum(item[1].values()))
    judgements = cost.num_steps // cost.interval
    per_attack = cost.num_steps * flops["attack"] + judgements * flops["judgement"]
    total = flops["reference"] + flops["retain"] + cost.adversaries * per_attack
    return Plan(mode, moment, device, hosted, total * cost.batch_size / rows)


Counts = dict[str, int]


def _deep(config: PretrainedConfig, few: int, measure: Callable[[str, type], tuple[Counts, ...]]) -> tuple[Counts, ...]:
    """What is measured of a configuration. With each of many like layers it grows by the same: few of them tell."""
    fields, kind = config.to_dict(), type(config)
    depth = config.num_hidden_layers
    if depth <= 2 * few or any(isinstance(value, list) and len(value) == depth for value in fields.values()):
        return measure(config.to_json_string(), kind)

    def of(layers: int) -> tuple[Counts, ...]:
        shallow = kind.from_dict(fields)
        shallow.num_hidden_layers = layers
        return measure(shallow.to_json_string(), kind)

    return tuple(
        {name: count + (twice[name] - count) * (depth - few) // few for name, count in once.items()}
        for once, twice in zip(of(few), of(2 * few), strict=True)
    )


@cache
def _state(config: str, config_class: type, mode: Mode, optim: str) -> tuple[Counts, Counts]:
    """Bytes of each kind of state on one device that has all of it, and what each optimizer's step adds at most."""
    with FakeTensorMode():
        models = _Models.of(config, config_class, mode)
        outer, inner = list(models.whole.parameters()), models.attacking
        step, outer_state = _stepped(_outer_optimizer(optim, outer), outer)
        offloaded, _ = _stepped(_outer_optimizer(optim, outer), outer, StateOnHost)
        adversary = Adversary("plan", "plan", lora_r=mode.lora_r)
        attacks_step, inner_state = _stepped(create_optimizer(models.attacked, inner, adversary), inner)
        if mode.optimizer == "adamw_8bit":  # whose kernels want content
            inner_state = sum(map(_bytes_of_8bit_state, inner))
        sizes = {
            "parameters": sum(p.nbytes for p in outer),
            "weights": sum(t.nbytes for t in (*outer, *models.whole.buffers())),
            "snapshot": sum(t.nbytes for t in (*models.whole.buffers(), *(outer if mode.lora_r is None else []))),
            "L_TR's gradient": sum(p.numel() * at_least_float32(p).itemsize for p in outer),
            "outer optimizer": outer_state,
            "attack's optimizer": inner_state,
            "adapter": 0 if mode.lora_r is None else sum(p.nbytes for p in inner),
            "layers": _largest_layers(models.whole),
        }
    in_backward = mode.optimizer_in_backward
    steps = {
        "outer step": step,
        "outer step, offloaded": offloaded,
        "attack's step": 0 if in_backward else attacks_step,
    }
    return sizes, steps


@cache
def _passes(config: str, config_class: type, rows: int, length: int, mode: Mode, share: int) -> tuple[Counts, Counts]:
    """Bytes that each pass adds at most on one of `share` devices, and of what it keeps of its gradient."""
    peaks, gradients = {}, {}
    with FakeTensorMode():
        models = _Models.of(config, config_class, mode)
        for each in models.passes(rows, length):
            peaks[each.name], gradients[each.name] = _held(each, mode, share, models.reference)
    return peaks, gradients


@cache
def _flops(config: str, config_class: type, rows: int, length: int, mode: Mode) -> tuple[Counts]:
    """Floating-point operations of each pass; counted apart, as the counter holds tensors that a training would free."""
    found = {}
    with FakeTensorMode():
        models = _Models.of(config, config_class, mode)
        for each in models.passes(rows, length):
            with FlopCounterMode(display=False, custom_mapping=ATTENTION) as flops:
                each.run(mode)
            found[each.name] = flops.get_total_flops()
    return (found,)


@dataclass(frozen=True)
class _Pass:
    """A pass of the outer step, forward and backward to some parameters; forward alone for none."""

    name: str
    model: nn.Module
    batch: Batch
    parameters: list[nn.Parameter]
    loss: Callable[[nn.Module, Batch], Any]
    consume: Callable[[nn.Parameter, torch.Tensor], None] | None = (
        None  # what `optimizer_in_backward` does, if anything
    )

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
class _Models:
    """The model, the one under attack, what the attack trains, and the reference's hidden states once they are made."""

    whole: nn.Module
    attacked: nn.Module
    attacking: list[nn.Parameter]
    reference: list[torch.Tensor]

    @classmethod
    def of(cls, config: str, config_class: type, mode: Mode) -> "_Models":
        fields = json.loads(config)
        whole, _ = _empty(config_class.from_dict(fields), None, mode)
        attacked, adapter = _empty(config_class.from_dict(fields), mode.lora_r, mode)
        return cls(whole, attacked, adapter or list(attacked.parameters()), [])

    def passes(self, rows: int, length: int) -> list[_Pass]:
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
            _Pass("reference", self.whole, batch, [], hidden_states),
            _Pass("retain", self.whole, batch, list(self.whole.parameters()), retain),
            _Pass("attack", self.attacked, batch, self.attacking, likelihood, _step_without_state),
            _Pass("judgement", self.attacked, batch, base, _entropy, lambda p, gradient: None),
        ]


def _empty(config: PretrainedConfig, lora_r: int | None, mode: Mode) -> tuple[nn.Module, list[nn.Parameter]]:
    """A model whose tensors have no content, and the parameters of its LoRA adapter."""
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=mode.dtype)
        if lora_r is not None:
            model = get_peft_model(model, lora_config(Adversary("plan", "plan", lora_r=lora_r)), low_cpu_mem_usage=True)
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


def _held(each: _Pass, mode: Mode, share: int, held_before: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Bytes that a pass adds at most, and of its gradient. What was held before it counts as added, beside the model."""
    known = Ledger([*each.model.parameters(), *each.model.buffers(), *held_before])
    before = known.live - sum(t.nbytes for t in held_before)
    with known as ledger:
        gradient = sum(g.nbytes for g in each.run(mode, share))
    return ledger.peak - before, gradient


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


def _outer_optimizer(optim: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    optimizer_class, arguments = Trainer.get_optimizer_cls_and_kwargs(
        TARConfig("plan", optim=optim, bf16=False, use_cpu=True)
    )
    optimizer = optimizer_class(parameters, **arguments)
    if is_schedule_free(optimizer):
        optimizer.train()
    return optimizer


def _stepped(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    changed: Callable[[torch.optim.Optimizer], Any] = lambda optimizer: None,
) -> tuple[int, int]:
    """What a step adds to parameters and state at most, its gradient included, and the bytes of the state."""
    if in_bfloat16(parameters):
        step_in_float32(optimizer, torch.Generator())
    changed(optimizer)
    for p in parameters:
        p.grad = torch.empty_like(p)
    optimizer.step()  # makes the state
    held = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
    gradient = sum(p.grad.nbytes for p in parameters)
    with Ledger([*parameters, *held, *[p.grad for p in parameters if p.grad is not None]]) as ledger:
        before = ledger.live
        optimizer.step()
    for p in parameters:
        p.grad = None
    return ledger.peak - before + gradient, sum(v.nbytes for v in held)


def _bytes_of_8bit_state(p: nn.Parameter) -> int:
    """Of bitsandbytes: two numbers of 8 bits, and a scale in float32 for 256 of each; small parameters have float32."""
    return p.numel() * 8 if p.numel() < 4096 else 2 * (p.numel() + 4 * math.ceil(p.numel() / 256))


def _step_without_state(p: nn.Parameter, gradient: torch.Tensor) -> None:
    """What a step makes beside its state, which is there already."""
    p.grad = gradient
    optimizer = torch.optim.SGD([p], lr=1.0)
    if in_bfloat16([p]):
        step_in_float32(optimizer, torch.Generator())
    optimizer.step()
    p.grad = None


def _largest_layers(model: nn.Module) -> int:
    """Bytes that FSDP2 gathers at once: what is in no decoder layer, and the largest layer."""
    layers = max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len)
    sizes = [sum(p.nbytes for p in layer.parameters()) for layer in layers]
    return sum(p.nbytes for p in model.parameters()) - sum(sizes) + max(sizes)
