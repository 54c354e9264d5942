"""Whether TAR fits a device, and how long it takes, from a model's configuration alone.

The passes and optimizer steps of an outer step are made with tensors that have shapes and no content, and their storages
counted; what lies around them is added up. So the model of memory has no constant that was fitted. L_TR is the entropy.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import UnsupportedFakeTensorException
from torch.utils.flop_counter import FlopCounterMode
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig, Trainer

from ..adversaries.adversary import Adversary
from ..models.untrusted_config import NONSENSE
from ..optim.attack_optimizers import create_optimizer
from ..optim.offload import StateOnHost
from ..optim.schedule_free import is_schedule_free
from ..optim.stochastic_rounding import at_least_float32, in_bfloat16, step_in_float32
from ..trainers.tar_config import TARConfig
from ..validation import check_at_least, check_types
from .cost import Cost
from .fake_model import KERNELS, Mode, Models, Pass, without_content
from .memory_ledger import Ledger


def check_plan(config: PretrainedConfig, cost: Cost, mode: Mode) -> None:
    """Raises `ValueError` for a step that [`TARTrainer`] would refuse or could not make, and for what is no causal language model."""
    check_types("Cost", cost)
    check_at_least("Cost", cost, batch_size=1, length=2, num_steps=1, interval=1, adversaries=1)
    if cost.num_steps < cost.interval:
        raise ValueError(
            f"An attack of {cost.num_steps} steps with an interval of {cost.interval} would never be judged. Take more "
            "attack steps, or a shorter interval."
        )
    if mode.devices > cost.batch_size:
        raise ValueError(
            f"A batch of {cost.batch_size} rows leaves some of {mode.devices} devices without one. Take fewer devices, or "
            f"a batch of at least {mode.devices}."
        )
    of_type = f"A model of type {config.model_type!r}"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"{of_type} cannot be planned: it is no causal language model. Use one.")
    fields = config.get_text_config().to_dict()
    fields |= {name: fields[own] for name, own in config.get_text_config().attribute_map.items() if own in fields}
    layers, context = fields.get("num_hidden_layers"), fields.get("max_position_embeddings")
    if not isinstance(layers, int) or layers < 1:
        raise ValueError(
            f"{of_type} with num_hidden_layers={layers} cannot be planned: it has no layer. Give it at least one."
        )
    if isinstance(context, int) and 0 < context < cost.length:
        raise ValueError(
            f"{of_type} has a context of {context} positions, and rows have {cost.length} tokens. Take rows of at most "
            f"{context}."
        )


FEW = {"memory": 8, "flops": 4}  # layers that a model of more than twice as many is measured with, and twice as many
RESERVED = 0.05  # of a memory, for the context of CUDA, the interpreter and what allocators cannot use


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
        flops, flops_of_a_device (`float`):
            Of an outer step, over all devices, and on the one with most rows.
    """

    mode: Mode
    moment: str
    device: dict[str, int]
    host: dict[str, int]
    flops: float
    flops_of_a_device: float

    @property
    def device_bytes(self) -> int:
        return sum(self.device.values())

    @property
    def host_bytes(self) -> int:
        return sum(self.host.values())

    def machine_bytes(self, devices_per_node: int) -> int:
        """On the host of a machine with so many devices, each of which has a process."""
        return min(self.mode.devices, devices_per_node) * self.host_bytes

    def fits(self, device_memory: float, host_memory: float = math.inf, devices_per_node: int = 8) -> bool:
        """Whether devices and hosts of so many bytes hold it, with 5 % left."""
        on_device = self.device_bytes <= (1 - RESERVED) * device_memory
        return on_device and self.machine_bytes(devices_per_node) <= (1 - RESERVED) * host_memory

    def hours(self, steps: int, mfu: float, device_flops: float) -> float:
        """Of so many outer steps at that share of a device's floating-point operations per second: all wait for the busiest."""
        return steps * self.flops_of_a_device / (mfu * device_flops) / 3600


def plan(
    config: PretrainedConfig, cost: Cost, mode: Mode, optim: str = "schedule_free_adamw", pinned: bool = False
) -> Plan:
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
        pinned (`bool`, *optional*, defaults to `False`):
            Count what waits on the host as for a GPU, where PyTorch pins a power of two of bytes for each tensor.

    Raises:
        `ValueError`: for a model or a size that cannot be trained with, or whose passes cannot be made without content.
    """
    check_plan(config, cost, mode)
    try:
        return _planned(config, cost, mode, optim, ", pinned" if pinned else "")
    except UnsupportedFakeTensorException as error:  # before NONSENSE, of which it is one
        raise ValueError(
            f"A model of type {config.model_type!r} cannot be planned: its passes look at what tensors hold ({error}). "
            "Measure it with trl-tar bench."
        ) from error
    except (*NONSENSE, AssertionError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if mode.lora_r is None:
            raise ValueError(
                f"A model of type {config.model_type!r} cannot be planned ({reason}). Use one that transformers can train."
            ) from error
        raise ValueError(
            f"A LoRA attack on a model of type {config.model_type!r} cannot be planned ({reason}). Plan the attack on all "
            "parameters alone, with --lora-r 0."
        ) from error


def _planned(config: PretrainedConfig, cost: Cost, mode: Mode, optim: str, pinned: str) -> Plan:
    rows = math.ceil(cost.batch_size / mode.devices)
    alone, size = replace(mode, devices=1), (rows, cost.length)
    share = mode.devices
    sizes, steps = _deep(config, FEW["memory"], lambda *model: _state(*model, alone, optim))
    # FSDP2 gathers weights in the precision of a pass
    dtype = torch.bfloat16 if share > 1 and mode.bf16 else mode.dtype
    passing = replace(alone, dtype=dtype)
    peaks, gradients = _deep(config, FEW["memory"], lambda *model: _passes(*model, *size, passing, share))
    # with `backward`: the hooks of torch's counter do not bear `autograd.grad` beside adapters of experts
    counted = replace(
        alone, bf16=False, dtype=torch.float32, offload=False, optimizer="adamw", optimizer_in_backward=True
    )
    (flops,) = _deep(config, FEW["flops"], lambda *model: _flops(*model, *size, counted))
    parameters = sizes["parameters"]

    def waiting(pinned: str) -> dict[str, int]:  # what an attack does not read
        return {
            "snapshot": sizes[f"snapshot{pinned}"] // share,
            "reference": sizes[f"parameters{pinned}"] // share,
            "outer optimizer": sizes[f"outer optimizer{pinned}"] // share,
        }

    during_attack = {"retain gradient": parameters // share}
    kept, hosted = waiting(""), {}
    if mode.offload:
        kept, hosted = {}, {**waiting(pinned), "retain gradient": sizes[f"parameters{pinned}"]}
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
    return Plan(mode, moment, device, hosted, total * cost.batch_size / rows, total)


Counts = dict[str, int]


def _deep(config: PretrainedConfig, few: int, measure: Callable[[str, type], tuple[Counts, ...]]) -> tuple[Counts, ...]:
    """What is measured of a configuration. With each of many like layers it grows by the same: few of them tell."""
    fields, kind = config.to_dict(), type(config)
    text = config.get_text_config()
    depth = text.num_hidden_layers
    if depth <= 2 * few or any(isinstance(value, list) and len(value) == depth for value in text.to_dict().values()):
        return measure(config.to_json_string(), kind)

    def of(layers: int) -> tuple[Counts, ...]:
        shallow = kind.from_dict(fields)
        shallow.get_text_config().num_hidden_layers = layers
        return measure(shallow.to_json_string(), kind)

    return tuple(
        {name: count + (twice[name] - count) * (depth - few) // few for name, count in once.items()}
        for once, twice in zip(of(few), of(2 * few), strict=True)
    )


@cache
def _state(config: str, config_class: type, mode: Mode, optim: str) -> tuple[Counts, Counts]:
    """Bytes of each kind of state on one device that has all of it, and what each optimizer's step adds at most."""
    with without_content():
        models = Models.of(config, config_class, mode)
        outer, inner = list(models.whole.parameters()), models.attacking
        step, outer_state = _stepped(_outer_optimizer(optim, outer), outer)
        offloaded, _ = _stepped(_outer_optimizer(optim, outer), outer, StateOnHost)
        adversary = Adversary("plan", "plan", lora_r=mode.lora_r)
        attacks_step, inner_state = _stepped(create_optimizer(models.attacked, inner, adversary), inner)
        if mode.optimizer == "adamw_8bit":  # whose kernels want content
            inner_state = list(map(_bytes_of_8bit_state, inner))
        # what an attack changes and is put back after it: with LoRA no weight
        restored = [*models.whole.buffers(), *(outer if mode.lora_r is None else [])]
        sizes = {
            "parameters": sum(p.nbytes for p in outer),
            "weights": sum(t.nbytes for t in (*outer, *models.whole.buffers())),
            "snapshot": sum(t.nbytes for t in restored),
            "L_TR's gradient": sum(p.numel() * at_least_float32(p).itemsize for p in outer),
            "outer optimizer": sum(outer_state),
            "attack's optimizer": sum(inner_state),
            "adapter": 0 if mode.lora_r is None else sum(p.nbytes for p in inner),
            "layers": _largest_layers(models.whole),
            "parameters, pinned": _pinned(p.nbytes for p in outer),
            "snapshot, pinned": _pinned(t.nbytes for t in restored),
            "outer optimizer, pinned": _pinned(outer_state),
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
    with without_content():
        models = Models.of(config, config_class, mode)
        for each in models.passes(rows, length):
            peaks[each.name], gradients[each.name] = _held(each, mode, share, models.reference)
    return peaks, gradients


@cache
def _flops(config: str, config_class: type, rows: int, length: int, mode: Mode) -> tuple[Counts]:
    """Floating-point operations of each pass; counted apart, as the counter holds tensors that a training would free."""
    found = {}
    with without_content():
        models = Models.of(config, config_class, mode)
        for each in models.passes(rows, length):
            with FlopCounterMode(display=False, custom_mapping=KERNELS) as flops:
                each.run(mode)
            found[each.name] = flops.get_total_flops()
    return (found,)


def _held(each: Pass, mode: Mode, share: int, held_before: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Bytes that a pass adds at most, and of its gradient. What was held before it counts as added, beside the model."""
    known = Ledger([*each.model.parameters(), *each.model.buffers(), *held_before])
    before = known.live - sum(t.nbytes for t in held_before)
    with known as ledger:
        gradient = sum(g.nbytes for g in each.run(mode, share))
    return ledger.peak - before, gradient


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
) -> tuple[int, list[int]]:
    """What a step adds to parameters and state at most, its gradient included, and the bytes of each tensor of the state."""
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
    return ledger.peak - before + gradient, [v.nbytes for v in held]


def _bytes_of_8bit_state(p: nn.Parameter) -> int:
    """Of bitsandbytes: two numbers of 8 bits, and a scale in float32 for 256 of each; small parameters have float32."""
    return p.numel() * 8 if p.numel() < 4096 else 2 * (p.numel() + 4 * math.ceil(p.numel() / 256))


def _pinned(sizes: Iterable[int]) -> int:
    """Of pinned memory for tensors of so many bytes: PyTorch's allocator takes a power of two for each."""
    return sum(1 << (size - 1).bit_length() for size in sizes if size)


def _largest_layers(model: nn.Module) -> int:
    """Bytes that FSDP2 gathers at once: what is in no decoder layer, and the largest layer."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    layers = max(lists, key=lambda layers: sum(p.nbytes for p in layers.parameters()))  # not the experts of one layer
    sizes = [sum(p.nbytes for p in layer.parameters()) for layer in layers]
    return sum(p.nbytes for p in model.parameters()) - sum(sizes) + max(sizes)
