"""Bytes and floating-point operations of an outer step, counted with tensors that have shapes but no content."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PretrainedConfig, Trainer

from ..adversaries.adversary import Adversary
from ..optim.attack_optimizers import create_optimizer
from ..optim.offload import StateOnHost
from ..optim.schedule_free import is_schedule_free
from ..optim.stochastic_rounding import at_least_float32, in_bfloat16, step_in_float32
from ..trainers.tar_config import TARConfig
from .cost import Cost, PassName
from .fake_model import FLOPS_OF_KERNELS, Models, Pass, without_content
from .memory_ledger import Ledger
from .mode import Mode


Counts = dict[str, int]
# Layers of the two models from which a deep one is extrapolated: this many, and twice as many. The numbers are a choice;
# `test_a_deep_model_is_planned_from_few_of_its_layers` holds that the bytes are within 0.1 % of those of all layers.
FEW_LAYERS = {"memory": 8, "flops": 4}
ROWS_OF_FLOPS = 2  # rows whose operations are counted; each row takes as many, so that all batches share one count
OF_WHOLE: frozenset[PassName] = frozenset({"reference", "retain"})  # passes of the model that is not under attack
OF_ATTACKED: frozenset[PassName] = frozenset({"attack", "judgement"})


@dataclass(frozen=True)
class Counted:
    """The counts of an outer step.

    Args:
        sizes (`dict[str, int]`):
            Kind of state → its bytes on one device that has all of it; with `", pinned"` in its name, in pinned memory.
        steps (`dict[str, int]`):
            Optimizer step → bytes that it adds at most, on one device that has all of the state.
        peaks (`dict[str, int]`):
            Pass → bytes that it adds at most on one of the devices.
        gradients (`dict[str, int]`):
            Pass → those of these bytes that are left as its gradient.
        flops (`dict[str, int]`):
            Pass → its floating-point operations on the rows of one device.
    """

    sizes: Counts
    steps: Counts
    peaks: Counts
    gradients: Counts
    flops: Counts


def counted(config: PretrainedConfig, cost: Cost, mode: Mode, optim: str) -> Counted:
    """Counts an outer step of a model on the device that has most rows.

    Args:
        config ([`~transformers.PretrainedConfig`]):
            Configuration of the model.
        cost ([`Cost`]):
            Size of the outer step.
        mode ([`Mode`]):
            How memory is saved.
        optim (`str`):
            Outer optimizer, as in [`TARConfig`].
    """
    sizes, steps = counted_state(config, mode, optim)
    rows = math.ceil(cost.batch_size / mode.devices)
    passing = replace(mode, devices=1, dtype=dtype_of_passes(mode), optimizer="adamw")  # no pass reads its state
    peaks, gradients = _of_all_passes(
        config,
        FEW_LAYERS["memory"],
        lambda *model: _passes(*model, rows, cost.length, cost.output_anchor, mode.devices),
        passing,
    )
    # with `backward`, as hooks of torch's counter fail for `autograd.grad` with adapters on experts
    plain = Mode(mode.lora_r, False, True, mode.activation_checkpointing, bf16=False)
    (flops,) = _of_all_passes(
        config, FEW_LAYERS["flops"], lambda *model: _flops(*model, ROWS_OF_FLOPS, cost.length), plain
    )
    return Counted(sizes, steps, peaks, gradients, {name: n * rows // ROWS_OF_FLOPS for name, n in flops.items()})


def counted_state(config: PretrainedConfig, mode: Mode, optim: str) -> tuple[Counts, Counts]:
    """The sizes and steps of [`Counted`], which no size of a batch changes."""
    held = Mode(mode.lora_r, dtype=mode.dtype, optimizer=mode.optimizer)  # all that they depend on, to count them once
    sizes, steps = _extrapolated(config, FEW_LAYERS["memory"], lambda *model: _state(*model, held, optim))
    return sizes, {**steps, "attack's step": 0} if mode.optimizer_in_backward else steps


def dtype_of_passes(mode: Mode) -> torch.dtype:
    """The precision of the weights that a pass reads: FSDP2 gathers them in that of autocast."""
    return torch.bfloat16 if mode.devices > 1 and mode.bf16 else mode.dtype


def _extrapolated(
    config: PretrainedConfig, few: int, count: Callable[[str, type[PretrainedConfig]], tuple[Counts, ...]]
) -> tuple[Counts, ...]:
    """The result of `count` for a configuration, which is extrapolated from `few` and `2 * few` layers for a deep model.

    Each further layer adds the same, unless the configuration lists a property of each layer: then all layers are counted.
    """
    fields, config_class = config.to_dict(), type(config)
    text = config.get_text_config()
    depth = text.num_hidden_layers
    if depth <= 2 * few or any(isinstance(value, list) and len(value) == depth for value in text.to_dict().values()):
        return count(config.to_json_string(), config_class)

    def of_layers(layers: int) -> tuple[Counts, ...]:
        shallow = config_class.from_dict(fields)
        shallow.get_text_config().num_hidden_layers = layers
        return count(shallow.to_json_string(), config_class)

    return tuple(
        {name: size + (twice[name] - size) * (depth - few) // few for name, size in once.items()}
        for once, twice in zip(of_layers(few), of_layers(2 * few), strict=True)
    )


def _of_all_passes(
    config: PretrainedConfig, few: int, count: Callable[..., tuple[Counts, ...]], mode: Mode
) -> tuple[Counts, ...]:
    """The extrapolated result of `count` for all passes.

    Those of the whole model are alike beside every attack: they are asked for with one mode for all, and counted once."""
    of_whole = replace(mode, lora_r=None, optimizer_in_backward=False)
    parts = [
        _extrapolated(config, few, lambda *model, names=names, mode=mode: count(*model, mode, names))
        for names, mode in ((OF_WHOLE, of_whole), (OF_ATTACKED, mode))
    ]
    return tuple({**whole, **attacked} for whole, attacked in zip(*parts, strict=True))


@cache
def _state(config: str, config_class: type[PretrainedConfig], mode: Mode, optim: str) -> tuple[Counts, Counts]:
    """Bytes of each kind of state, and bytes that each optimizer's step adds at most, on one device that has all of it."""
    with without_content():
        models = Models.of(config, config_class, mode)
        outer, inner = list(models.whole.parameters()), models.attacking
        step, outer_state = _stepped(_outer_optimizer(optim, outer), outer)
        offloaded, _ = _stepped(_outer_optimizer(optim, outer), outer, StateOnHost)
        adversary = Adversary("plan", "plan", lora_r=mode.lora_r)
        attacks_step, inner_state = _stepped(create_optimizer(models.attacked, inner, adversary), inner)
        if mode.optimizer == "adamw_8bit":  # its kernels need content
            inner_state = list(map(_bytes_of_8bit_state, inner))
        # the snapshot holds what an attack changes; a LoRA attack changes no weight
        snapshot = [*models.whole.buffers(), *(outer if mode.lora_r is None else [])]
        sizes = {
            "parameters": sum(p.nbytes for p in outer),
            "weights": sum(t.nbytes for t in (*outer, *models.whole.buffers())),
            "snapshot": sum(t.nbytes for t in snapshot),
            "L_TR's gradient": sum(p.numel() * at_least_float32(p).itemsize for p in outer),
            "outer optimizer": sum(outer_state),
            "attack's optimizer": sum(inner_state),
            "displacement": sum(p.numel() * at_least_float32(p).itemsize for p in inner),
            "adapter": 0 if mode.lora_r is None else sum(p.nbytes for p in inner),
            "layers": _bytes_gathered(models.whole),
            "attacker, pinned": _pinned([*(p.numel() * at_least_float32(p).itemsize for p in inner), *inner_state]),
            "parameters, pinned": _pinned(p.nbytes for p in outer),
            "snapshot, pinned": _pinned(t.nbytes for t in snapshot),
            "outer optimizer, pinned": _pinned(outer_state),
        }
    steps = {
        "outer step": step,
        "outer step, offloaded": offloaded,
        "attack's step": attacks_step,
    }
    return sizes, steps


@cache
def _passes(
    config: str,
    config_class: type[PretrainedConfig],
    mode: Mode,
    names: frozenset[PassName],
    rows: int,
    length: int,
    output_anchor: bool,
    devices: int,
) -> tuple[Counts, Counts]:
    """Bytes that each pass of these names adds at most on one of `devices`, and those of them that are left as its gradient."""
    peaks: Counts = {}
    gradients: Counts = {}
    with without_content():
        models = Models.of(config, config_class, mode)
        for run in models.passes(names, rows, length, output_anchor):
            peaks[run.name], gradients[run.name] = _peak(run, mode, devices, models.reference)
    return peaks, gradients


@cache
def _flops(
    config: str, config_class: type[PretrainedConfig], mode: Mode, names: frozenset[PassName], rows: int, length: int
) -> tuple[Counts]:
    """Floating-point operations of each pass of these names; counted apart from memory, as the counter keeps tensors alive."""
    operations: Counts = {}
    with without_content():
        models = Models.of(config, config_class, mode)
        for run in models.passes(names, rows, length, output_anchor=False):  # which multiplies no matrices
            with FlopCounterMode(display=False, custom_mapping=FLOPS_OF_KERNELS) as counter:
                run.run(mode)
            operations[run.name] = counter.get_total_flops()
    return (operations,)


def _peak(run: Pass, mode: Mode, devices: int, held_before: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Bytes that a pass adds to the model at most, and those of its gradient; `held_before` is in the first number."""
    ledger = Ledger([*run.model.parameters(), *run.model.buffers(), *held_before])
    before = ledger.live - sum(t.nbytes for t in held_before)
    with ledger:
        gradient = sum(g.nbytes for g in run.run(mode, devices))
    return ledger.peak - before, gradient


def _outer_optimizer(optim: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    args = TARConfig("plan", optim=optim, bf16=False, use_cpu=True)
    optimizer_class, arguments = Trainer.get_optimizer_cls_and_kwargs(args)
    optimizer = optimizer_class(parameters, **arguments)
    if is_schedule_free(optimizer):
        optimizer.train()
    return optimizer


def _stepped(
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    change: Callable[[torch.optim.Optimizer], Any] = lambda optimizer: None,
) -> tuple[int, list[int]]:
    """Calls `change` on an optimizer, and steps it twice.

    Returns the bytes that the second step adds at most to parameters and state, its gradient included, and the bytes of each
    tensor of the state."""
    if in_bfloat16(parameters):
        step_in_float32(optimizer, torch.Generator())
    change(optimizer)
    for p in parameters:
        p.grad = torch.empty_like(p)
    optimizer.step()  # makes the state
    state = [v for values in optimizer.state.values() for v in values.values() if torch.is_tensor(v)]
    gradient = sum(p.grad.nbytes for p in parameters if p.grad is not None)
    with Ledger([*parameters, *state, *[p.grad for p in parameters if p.grad is not None]]) as ledger:
        before = ledger.live
        optimizer.step()
    for p in parameters:
        p.grad = None
    return ledger.peak - before + gradient, [v.nbytes for v in state]


def _bytes_of_8bit_state(p: nn.Parameter) -> int:
    """Bytes of AdamW's state in bitsandbytes: two numbers of 8 bits, and a scale in float32 for each 256 of them.

    Below 4096 numbers, bitsandbytes' own bound, the state is in float32."""
    return p.numel() * 8 if p.numel() < 4096 else 2 * (p.numel() + 4 * math.ceil(p.numel() / 256))


def _pinned(sizes: Iterable[int]) -> int:
    """Bytes of pinned memory that tensors of these sizes take. PyTorch's allocator rounds each up to a power of two."""
    return sum(1 << (size - 1).bit_length() for size in sizes if size)


def _bytes_gathered(model: nn.Module) -> int:
    """Bytes that FSDP2 gathers at once: the largest decoder layer, and what is in no decoder layer."""
    lists = [m for m in model.modules() if isinstance(m, nn.ModuleList)]
    layers = max(lists, key=lambda layers: sum(p.nbytes for p in layers.parameters()))  # not the experts of one layer
    sizes = [sum(p.nbytes for p in layer.parameters()) for layer in layers]
    return sum(p.nbytes for p in model.parameters()) - sum(sizes) + max(sizes)
