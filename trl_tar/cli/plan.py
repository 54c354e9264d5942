"""`trl-tar plan`: whether TAR fits, with which options, and how long it takes."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from transformers import AutoConfig, PretrainedConfig

from ..costs.cost import Cost
from ..costs.fitting import Room, largest, on_more_devices
from ..costs.mode import Mode
from ..costs.plan import Plan, least, plan
from ..models.errors import NONSENSE
from ..pipeline.console import quiet


SIZES = {"batch_size": 8, "length": 256, "num_steps": 64}  # rows and tokens of one device, and the paper's K


@dataclass(frozen=True)
class Work:
    """The work of a training: its outer steps, a device's FLOP/s, and the share of them that is reached."""

    steps: int
    mfu: float
    device_flops: float

    def hours(self, planned: Plan) -> float:
        return planned.hours(self.steps, self.mfu, self.device_flops)


def plan_command(
    model: str,
    device_memory: float = 80e9,
    devices: int = 1,
    lora_r: int = 16,
    bf16: bool = True,
    dtype: str = "float32",
    steps: int = 750,
    mfu: float = 0.4,
    device_flops: float = 989e12,
    host_memory: float | None = None,
    devices_per_node: int = 8,
    fit: bool = False,
    as_json: bool = False,
    **sizes: int,
) -> list[Plan]:
    """Prints what each mode takes, and which are the first that fit.

    Args:
        model (`str`):
            Folder, `config.json` or Hub id.
        device_memory (`float`, *optional*, defaults to `80e9`):
            Bytes of a device.
        devices (`int`, *optional*, defaults to `1`):
            Devices there are.
        lora_r (`int`, *optional*, defaults to `16`):
            Rank of the LoRA attack that is looked at in addition to the one on all parameters; 0 for none.
        bf16 (`bool`, *optional*, defaults to `True`):
            bf16 autocast.
        dtype (`str`, *optional*, defaults to `"float32"`):
            Type of the weights, `"float32"` or `"bfloat16"`.
        steps (`int`, *optional*, defaults to `750`), mfu (`float`, *optional*, defaults to `0.4`), device_flops (`float`,
        *optional*, defaults to `989e12`):
            Outer steps (the paper's), and floating-point operations per second of a device (an H100 in bfloat16, by its
            data sheet), with the share of them that is reached (a guess).
        host_memory (`float`, *optional*):
            Bytes on the host of each machine. Without them only devices have to hold it.
        devices_per_node (`int`, *optional*, defaults to `8`):
            Devices of a machine at most.
        fit (`bool`, *optional*, defaults to `False`):
            Also look for the largest batch that fits in the mode that takes least, of each kind of attack.
        as_json (`bool`, *optional*, defaults to `False`):
            Print JSON.
        **sizes (`int`):
            Fields of [`Cost`], 8 rows of 256 tokens and K = 64 by default.
    """
    quiet()
    cost = Cost(**{**SIZES, **sizes})
    config = read_config(model)
    common = {"bf16": bf16, "dtype": getattr(torch, dtype), "devices": devices}
    if dtype == "bfloat16" and (devices > 1 or not bf16):
        raise ValueError(
            f"Weights in bfloat16 are trained with autocast and without FSDP2, not with devices={devices} and bf16={bf16}. Use "
            "--dtype float32."
        )
    room = Room(device_memory, math.inf if host_memory is None else host_memory, devices_per_node)
    work = Work(steps, mfu, device_flops)
    console = Console(stderr=True)
    console.print(
        "Counting the bytes of an outer step in each mode: about a minute for billions of parameters, on an idle core.",
        soft_wrap=True,
    )
    with console.status("") as status:

        def doing(what: str) -> None:
            status.update(escape(what))

        plans = _plans(config, cost, lora_r, common, room, doing)
        found = _largest(config, cost, plans, room, fit, doing)
    if as_json:
        sized = [*((cost, each) for each in plans), *(each for each in found.values() if not isinstance(each, str))]
        print(json.dumps([_fields(size, each, room, work) for size, each in sized], indent=1, default=str))
    else:
        _print(plans, found, cost, room, work)
    return plans


def _plans(
    config: PretrainedConfig,
    cost: Cost,
    lora_r: int,
    common: dict[str, Any],
    room: Room,
    doing: Callable[[str], None],
) -> list[Plan]:
    """The plans of all modes, and for an attack that fits in none of them the one on more devices, if it fits there."""
    plans, looked_at = [], modes(lora_r, common, cost.attackers > 0)
    for number, mode in enumerate(looked_at, 1):
        doing(f"{number} of {len(looked_at)}: {mode}")
        plans.append(plan(config, cost, mode, pinned=True))
    for rank in (None, lora_r) if lora_r else (None,):
        fits = any(room.holds(planned) for planned in plans if planned.mode.lora_r == rank)
        if not fits and common["dtype"] == torch.float32:
            doing("On more devices")
            plans += on_more_devices(config, cost, Mode(rank, **common), room)
    return plans


def _largest(
    config: PretrainedConfig, cost: Cost, plans: list[Plan], room: Room, fit: bool, doing: Callable[[str], None]
) -> dict[str, str | tuple[Cost, Plan]]:
    """Kind of attack → the largest batch that fits in its leanest mode, looked for with `fit` alone, or why there is none."""
    found: dict[str, str | tuple[Cost, Plan]] = {}
    for what, of_kind in by_kind(plans):
        mode = [each.mode for each in of_kind if each.mode.devices == plans[0].mode.devices][-1]
        held, parameters = least(config, cost, mode)
        if not room.has(held):
            found[what] = (
                f"{what} takes at least {held / 1e9:.1f} GB on a device, however small the batch, with: {mode}. In "
                f"proportion, {room.device / 1e9:g} GB are for {room.share_of(held) * parameters / 1e9:.2g} B parameters, and "
                f"the model has {parameters / 1e9:.2g} B."
            )
        elif fit:
            doing(f"The largest batch: {mode}")
            found[what] = largest(config, cost, mode, room) or f"{what} does not fit with one short row either."
    return found


def _fields(cost: Cost, planned: Plan, room: Room, work: Work) -> dict[str, Any]:
    return {
        "batch_size": cost.batch_size,
        "length": cost.length,
        **asdict(planned),
        "machine_bytes": planned.machine_bytes(room.devices_per_node),
        "fits": room.holds(planned),
        "hours": work.hours(planned),
    }


def _print(plans: list[Plan], found: dict[str, str | tuple[Cost, Plan]], cost: Cost, room: Room, work: Work) -> None:
    console = Console()
    console.print(_table(plans, room, work))
    shardable = plans[0].mode.dtype == torch.float32
    for sentence in sentences(plans, room, cost.batch_size if shardable else 1, found):
        console.print(escape(sentence), highlight=False, soft_wrap=True)
    console.print(
        f"Devices of {room.device / 1e9:g} GB. Memory and FLOPs of one outer step: {cost.passes} passes of {cost.batch_size} × {cost.length} tokens over all "
        f"devices. Hours of {work.steps} steps at {work.mfu:.0%} of {work.device_flops / 1e12:.0f} TFLOP/s. A host is that "
        f"of up to {room.devices_per_node} devices.",
        highlight=False,
        soft_wrap=True,
    )


def read_config(model: str) -> PretrainedConfig:
    """Reads the configuration of a folder, a `config.json` or a Hub id; `ValueError` where there is none."""
    try:
        return AutoConfig.from_pretrained(model, trust_remote_code=False)
    except NONSENSE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{model!r} gives no configuration ({reason}). Give a folder, a config.json or a Hub id."
        ) from error


def modes(lora_r: int, common: dict[str, Any], continued: bool = False) -> list[Mode]:
    """Returns the modes to look at, the fastest first; those of continued attacks keep all moments."""
    savings: list[dict[str, bool]] = [{}, {"activation_checkpointing": True}]
    eight_bit = []
    if common["devices"] == 1:
        offload = {"offload": True}
        lean = offload if continued else {**offload, "optimizer_in_backward": True}
        leanest = {**lean, "activation_checkpointing": True}
        savings = [{}, offload, *([] if continued else [lean]), leanest]
        eight_bit = [Mode(**common, **leanest, optimizer="adamw_8bit")]
    return [
        *(Mode(**common, **saving) for saving in savings),
        *eight_bit,
        *(Mode(lora_r, **common, **saving) for saving in savings if lora_r),
    ]


def in_words(cost: Cost, planned: Plan) -> str:
    """The size of a batch that fits, with its mode."""
    return (
        f"At most {cost.batch_size} × {cost.length} tokens, by factors of two, fit with: {planned.mode} "
        f"({planned.device_bytes / 1e9:.1f} GB on a device)."
    )


def by_kind(plans: list[Plan]) -> Iterator[tuple[str, list[Plan]]]:
    """Yields the kinds of attack that there are plans of, and these."""
    for what, lora in (("An attack on all parameters", False), ("A LoRA attack", True)):
        of_kind = [planned for planned in plans if (planned.mode.lora_r is not None) == lora]
        if of_kind:
            yield what, of_kind


def sentences(
    plans: list[Plan], room: Room, most_devices: int, found: Mapping[str, str | tuple[Cost, Plan]]
) -> Iterator[str]:
    """Yields a sentence for each kind of attack on its first mode that fits, or on what to change if none does, and on the
    largest batch that was found."""
    for what, of_kind in by_kind(plans):
        fitting = next(filter(room.holds, of_kind), None)
        on_devices = next((planned for planned in of_kind if planned.fits(room.device)), None)
        answer = found.get(what)
        if fitting is not None:
            yield f"{what} fits with: {fitting.mode} (fullest in the {fitting.moment})."
        elif on_devices is not None:
            yield (
                f"{what} fits the devices with: {on_devices.mode}, but not the host, where it takes "
                f"{on_devices.machine_bytes(room.devices_per_node) / 1e9:.1f} GB. Take more memory there, or fewer devices of "
                "a machine."
            )
        else:
            either = f", on {most_devices} devices with a row each either" if most_devices > 1 else ""
            remedy = "" if answer else " Take more memory or devices, or look for a smaller batch that fits with --fit."
            yield f"{what} does not fit{either}.{remedy}"
        if answer is not None:
            yield answer if isinstance(answer, str) else in_words(*answer)


def _table(plans: list[Plan], room: Room, work: Work) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("\nmode", overflow="fold")
    for column in ("GB on\na device", "GB on\na host", "\nfits", "PFLOP\na step", "\nhours"):
        table.add_column(column, justify="right")
    for planned in plans:
        fits = room.holds(planned)
        table.add_row(
            escape(str(planned.mode)),
            f"{planned.device_bytes / 1e9:.1f}",
            f"{planned.machine_bytes(room.devices_per_node) / 1e9:.1f}",
            "yes" if fits else "no",
            f"{planned.flops / 1e15:.2f}",
            f"{work.hours(planned):.1f}",
            style=None if fits else "dim",
        )
    return table
