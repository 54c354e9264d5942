"""A plan of memory and time: whether TAR fits a device, and how long it takes, from a model's configuration alone.

[`counted`] makes the passes and optimizer steps of an outer step with tensors that have shapes but no content, and counts
their storages; a plan adds what is held around them. So the model of memory has no fitted constant. L_TR is the entropy.
"""

import math
from dataclasses import dataclass

from torch._subclasses.fake_tensor import UnsupportedFakeTensorException
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PretrainedConfig

from ..models.errors import NONSENSE
from ..validation import check_at_least, check_types
from .bytes_and_flops import Counted, counted, counted_state, dtype_of_passes
from .cost import Cost
from .mode import Mode


RESERVED = 0.05  # share of a memory that is left to CUDA's context, the interpreter and allocators; a choice


def check_plan(config: PretrainedConfig, cost: Cost, mode: Mode) -> None:
    """Raises `ValueError` for a step that [`TARTrainer`] refuses or cannot make, and for a model that is no causal language model."""
    check_types("Cost", cost)
    check_at_least("Cost", cost, batch_size=1, length=2, num_steps=1, interval=1, adversaries=1, attackers=0)
    if cost.num_steps < cost.interval:
        raise ValueError(
            f"An attack of {cost.num_steps} steps with an interval of {cost.interval} would never be judged. Take more "
            "attack steps, or a shorter interval."
        )
    if cost.attackers and mode.optimizer_in_backward:
        raise ValueError(
            "Continued attackers keep moments, and optimizer_in_backward keeps none. Leave one of the two out."
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


@dataclass(frozen=True)
class Plan:
    """Memory and floating-point operations of an outer step in one mode.

    Args:
        mode ([`Mode`]):
            How memory is saved.
        moment (`str`):
            The moment of the outer step at which memory of a device peaks.
        device, host (`dict[str, int]`):
            Kind → bytes, on each device at that moment, and on the host for each process.
        flops, flops_of_a_device (`float`):
            Floating-point operations of an outer step, over all devices, and on the device with most rows.
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
        """Bytes on the host of a machine that runs one process for each of its devices, `devices_per_node` at most."""
        return min(self.mode.devices, devices_per_node) * self.host_bytes

    def fits(self, device_memory: float, host_memory: float = math.inf, devices_per_node: int = 8) -> bool:
        """Tells whether devices and hosts with these bytes of memory hold the plan, with a share of `RESERVED` left."""
        on_device = self.device_bytes <= (1 - RESERVED) * device_memory
        return on_device and self.machine_bytes(devices_per_node) <= (1 - RESERVED) * host_memory

    def hours(self, steps: int, mfu: float, device_flops: float) -> float:
        """Hours of `steps` outer steps, if each device reaches the share `mfu` of its `device_flops` per second.

        All devices wait for the one with most rows."""
        return steps * self.flops_of_a_device / (mfu * device_flops) / 3600


def plan(
    config: PretrainedConfig, cost: Cost, mode: Mode, optim: str = "schedule_free_adamw", pinned: bool = False
) -> Plan:
    """Plans memory and floating-point operations of an outer step.

    Args:
        config ([`~transformers.PretrainedConfig`]):
            Configuration of the model; no weights are loaded.
        cost ([`Cost`]):
            Size of the outer step, whose rows the devices share.
        mode ([`Mode`]):
            How memory is saved.
        optim (`str`, *optional*, defaults to `"schedule_free_adamw"`):
            Outer optimizer, as in [`TARConfig`].
        pinned (`bool`, *optional*, defaults to `False`):
            Count what is offloaded as for a GPU, for which PyTorch pins a power of two of bytes for each tensor.

    Raises:
        `ValueError`: for a model or a size that cannot be trained with, or whose passes cannot be made without content.
    """
    check_plan(config, cost, mode)
    try:
        return _planned(config, cost, mode, optim, pinned)
    except UnsupportedFakeTensorException as error:  # before NONSENSE, which contains its base class
        raise ValueError(
            f"A model of type {config.model_type!r} cannot be planned: its passes look at what tensors hold ({error}). "
            "Measure it with trl-tar bench."
        ) from error
    except NONSENSE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if mode.lora_r is None:
            raise ValueError(
                f"A model of type {config.model_type!r} cannot be planned ({reason}). Use one that transformers can train."
            ) from error
        raise ValueError(
            f"A LoRA attack on a model of type {config.model_type!r} cannot be planned ({reason}). Plan the attack on all "
            "parameters alone, with --lora-r 0."
        ) from error


def least(config: PretrainedConfig, cost: Cost, mode: Mode, optim: str = "schedule_free_adamw") -> tuple[int, int]:
    """Bytes that each device holds at its fullest moment whatever the size of a batch, and the model's parameters.

    The first is a bound from below, which needs no pass: no gradient and no activation is in it."""
    sizes, steps = counted_state(config, mode, optim)
    nothing: dict[str, int] = dict.fromkeys(cost.outer_step, 0)
    moments = _moments(Counted(sizes, steps, nothing, nothing, nothing), mode, cost.attackers)
    return max(sum(kinds.values()) for kinds in moments.values()), sizes["parameters"] // mode.dtype.itemsize


def _planned(config: PretrainedConfig, cost: Cost, mode: Mode, optim: str, pinned: bool) -> Plan:
    counts = counted(config, cost, mode, optim)
    moments = _moments(counts, mode, cost.attackers)
    moment = max(moments, key=lambda name: sum(moments[name].values()))
    flops = sum(counts.flops[name] for name in cost.outer_step)
    rows = math.ceil(cost.batch_size / mode.devices)
    return Plan(
        mode,
        moment,
        moments[moment],
        _on_host(counts, mode, cost.attackers, pinned),
        flops * cost.batch_size / rows,
        flops,
    )


def _moments(counts: Counted, mode: Mode, attackers: int) -> dict[str, dict[str, int]]:
    """Moment of the outer step → kind → bytes on each device."""
    sizes, devices = counts.sizes, mode.devices
    weights = {"weights": sizes["weights"] // devices}
    waiting = {} if mode.offload else _waiting(counts, mode, pinned=False)
    attacker = (sizes["displacement"] + sizes["attack's optimizer"]) // devices
    pool, others = {}, {}  # of all continued attackers, and of those that are not in the attack
    if attackers and not mode.offload:
        pool, others = {"attackers": attackers * attacker}, {"attackers": (attackers - 1) * attacker}
    attack = {
        **others,
        **({} if mode.offload else {"retain gradient": sizes["parameters"] // devices}),
        "L_TR's gradient": sizes["L_TR's gradient"] // devices,
        "attack's optimizer": sizes["attack's optimizer"] // devices,
        **({"adapter": sizes["adapter"] // devices} if sizes["adapter"] else {}),
    }
    # θ_G0 is swapped in for its pass: from the host, or into memory that FSDP2 owns
    read = sizes["parameters"] // devices if mode.offload or devices > 1 else 0
    unsharded = {}  # weights and gradients of the layers that FSDP2 has gathered
    if devices > 1:
        unsharded["layers, unsharded"] = 2 * sizes["layers"] * dtype_of_passes(mode).itemsize // mode.dtype.itemsize

    def in_pass(name: str) -> dict[str, int]:
        gradient = counts.gradients[name]
        return {**unsharded, "gradient": gradient, "activations": counts.peaks[name] - gradient}

    def in_step(name: str) -> dict[str, int]:
        return {"gradient and temporaries": counts.steps[name] // devices}

    return {
        "reference's pass": {**weights, **waiting, **pool, "reference, read": read, **in_pass("reference")},
        "retain pass": {**weights, **waiting, **pool, **in_pass("retain")},
        "attack's pass": {**weights, **waiting, **attack, **in_pass("attack")},
        "judgement": {**weights, **waiting, **attack, **in_pass("judgement")},
        "attack's step": {**weights, **waiting, **attack, **in_step("attack's step")},
        "outer step": {
            **weights,
            **waiting,
            **pool,
            **in_step("outer step, offloaded" if mode.offload else "outer step"),
        },
    }


def _waiting(counts: Counted, mode: Mode, pinned: bool) -> dict[str, int]:
    """Kind → bytes on each device, or with `offload` on the host, of what no attack reads."""
    memory = ", pinned" if pinned else ""
    return {
        "snapshot": counts.sizes[f"snapshot{memory}"] // mode.devices,
        "reference": counts.sizes[f"parameters{memory}"] // mode.devices,
        "outer optimizer": counts.sizes[f"outer optimizer{memory}"] // mode.devices,
    }


def _on_host(counts: Counted, mode: Mode, attackers: int, pinned: bool) -> dict[str, int]:
    """Kind → bytes on the host, for each process."""
    parameters = counts.sizes["parameters"]
    if mode.devices > 1:  # each process has the model and θ_G0 whole until FSDP2 shards them
        return {
            "weights, before the first step": counts.sizes["weights"],
            "reference, before the first step": parameters,
        }
    if mode.offload:
        retain_gradient = counts.sizes["parameters, pinned"] if pinned else parameters
        sizes = counts.sizes
        attacker = sizes["attacker, pinned"] if pinned else sizes["displacement"] + sizes["attack's optimizer"]
        pool = {"attackers": attackers * attacker} if attackers else {}
        return {**_waiting(counts, mode, pinned), "retain gradient": retain_gradient, **pool}
    return {}
