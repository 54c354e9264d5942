"""`trl-tar plan`: whether TAR fits, with which options, and how long it takes."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoConfig, PretrainedConfig

from ..costs.cost import Cost
from ..costs.mode import Mode
from ..costs.plan import Plan, plan
from ..models.untrusted_config import NONSENSE
from .console import quiet


@dataclass(frozen=True)
class Room:
    """Memory there is: bytes of a device, of the host of a machine, and the devices of a machine at most."""

    device: float
    host: float
    devices_per_node: int

    def holds(self, each: Plan) -> bool:
        return each.fits(self.device, self.host, self.devices_per_node)


def plan_command(
    model: str,
    device_memory: float,
    devices: int,
    cost: Cost,
    lora_r: int,
    bf16: bool,
    dtype: str,
    steps: int,
    mfu: float,
    device_flops: float,
    host_memory: float | None = None,
    devices_per_node: int = 8,
    as_json: bool = False,
) -> list[Plan]:
    """Prints what each mode takes, and which are the first that fit.

    Args:
        model (`str`):
            Folder, `config.json` or Hub id.
        device_memory (`float`):
            Bytes of a device.
        devices (`int`):
            Devices there are.
        cost ([`Cost`]):
            Size of a step.
        lora_r (`int`):
            Rank of the LoRA attack that is looked at beside the one on all parameters; 0 for none.
        bf16 (`bool`):
            Autocast.
        dtype (`str`):
            Of the weights, `"float32"` or `"bfloat16"`.
        steps (`int`), mfu (`float`), device_flops (`float`):
            Outer steps, and floating-point operations per second of a device, with the share of them that is reached.
        host_memory (`float`, *optional*):
            Bytes on the host of each machine. Without them only devices have to hold it.
        devices_per_node (`int`, *optional*, defaults to `8`):
            Devices of a machine at most.
        as_json (`bool`, *optional*, defaults to `False`):
            Print JSON.
    """
    quiet()
    config = read_config(model)
    common = {"bf16": bf16, "dtype": getattr(torch, dtype), "devices": devices}
    if dtype == "bfloat16" and (devices > 1 or not bf16):
        raise ValueError(
            f"Weights in bfloat16 are trained with autocast and without FSDP2, not with devices={devices} and bf16={bf16}. Use "
            "--dtype float32."
        )
    room = Room(device_memory, math.inf if host_memory is None else host_memory, devices_per_node)
    with Console(stderr=True).status("Counting the bytes of an outer step"):
        plans = [plan(config, cost, mode, pinned=True) for mode in modes(lora_r, common)]
        for rank in (None, lora_r) if lora_r else (None,):
            fits = any(room.holds(each) for each in plans if each.mode.lora_r == rank)
            if not fits and dtype == "float32":
                plans += on_more_devices(config, cost, Mode(rank, **common), room)
    if as_json:
        found = [
            {
                **asdict(each),
                "machine_bytes": each.machine_bytes(devices_per_node),
                "fits": room.holds(each),
                "hours": each.hours(steps, mfu, device_flops),
            }
            for each in plans
        ]
        print(json.dumps(found, indent=1, default=str))
        return plans
    console = Console()
    console.print(_table(plans, room, steps, mfu, device_flops))
    for sentence in sentences(plans, room, cost.batch_size if dtype == "float32" else 1):
        console.print(escape(sentence), highlight=False, soft_wrap=True)
    console.print(
        f"Memory and FLOPs of one outer step: {cost.passes} passes of {cost.batch_size} × {cost.length} tokens over all "
        f"devices. Hours of {steps} steps at {mfu:.0%} of {device_flops / 1e12:.0f} TFLOP/s. A host is that of up to "
        f"{devices_per_node} devices.",
        highlight=False,
        soft_wrap=True,
    )
    return plans


def read_config(model: str) -> PretrainedConfig:
    """Configuration of a folder, a `config.json` or a Hub id; `ValueError` where there is none."""
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except NONSENSE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{model!r} gives no configuration ({reason}). Give a folder, a config.json or a Hub id."
        ) from error


def modes(lora_r: int, common: dict[str, Any]) -> list[Mode]:
    """Those to look at, the fastest first."""
    savings: list[dict[str, bool]] = [{}, {"activation_checkpointing": True}]
    eight_bit = []
    if common["devices"] == 1:
        offload = {"offload": True}
        lean = {**offload, "optimizer_in_backward": True}
        leanest = {**lean, "activation_checkpointing": True}
        savings = [{}, offload, lean, leanest]
        eight_bit = [Mode(**common, **leanest, optimizer="adamw_8bit")]
    return [
        *(Mode(**common, **saving) for saving in savings),
        *eight_bit,
        *(Mode(lora_r, **common, **saving) for saving in savings if lora_r),
    ]


def on_more_devices(config: PretrainedConfig, cost: Cost, mode: Mode, room: Room) -> list[Plan]:
    """The smallest power of two of devices with a row each, above those of the mode, on which it fits with FSDP2, if any."""
    count = 2 ** mode.devices.bit_length()
    while count <= cost.batch_size:
        found = plan(config, cost, replace(mode, activation_checkpointing=True, devices=count), pinned=True)
        if room.holds(found):
            return [found]
        count *= 2
    return []


def sentences(plans: list[Plan], room: Room, most_devices: int) -> Iterator[str]:
    """The first mode of each kind of attack that fits."""
    for what, lora in (("An attack on all parameters", False), ("A LoRA attack", True)):
        of_kind = [each for each in plans if (each.mode.lora_r is not None) == lora]
        if not of_kind:
            continue
        fitting = next(filter(room.holds, of_kind), None)
        if fitting is not None:
            yield f"{what} fits with: {fitting.mode} (fullest in the {fitting.moment})."
            continue
        on_devices = next((each for each in of_kind if each.fits(room.device)), None)
        if on_devices is not None:
            yield (
                f"{what} fits the devices with: {on_devices.mode}, but not the host, where it takes "
                f"{on_devices.machine_bytes(room.devices_per_node) / 1e9:.1f} GB. Take more memory there, or fewer devices of "
                "a machine."
            )
        elif most_devices > 1:
            yield (
                f"{what} does not fit, on {most_devices} devices with a row each either. Take more memory or shorter rows, "
                "or a larger batch for more devices."
            )
        else:
            yield f"{what} does not fit. Take more memory, or shorter and fewer rows."


def _table(plans: list[Plan], room: Room, steps: int, mfu: float, device_flops: float) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("\nmode", overflow="fold")
    for column in ("GB on\na device", "GB on\na host", "\nfits", "PFLOP\na step", "\nhours"):
        table.add_column(column, justify="right")
    for each in plans:
        fits = room.holds(each)
        table.add_row(
            escape(str(each.mode)),
            f"{each.device_bytes / 1e9:.1f}",
            f"{each.machine_bytes(room.devices_per_node) / 1e9:.1f}",
            "yes" if fits else "no",
            f"{each.flops / 1e15:.2f}",
            f"{each.hours(steps, mfu, device_flops):.1f}",
            style=None if fits else "dim",
        )
    return table
