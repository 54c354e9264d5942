"""The processes of `accelerate launch` or torchrun, on one machine or several: each does its share of the jobs."""

import os
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from accelerate import PartialState


PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "LOCAL_", "GROUP_", "ROLE_", "MASTER_")
NAMES = ("RANK", "WORLD_SIZE")


def num_ranks() -> int:
    """How many processes were launched; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Place of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def meet() -> None:
    """Waits for all processes to have started, and from then on for as long as the attacks of another take."""
    if num_ranks() > 1:
        _group()


def gathered(results: dict[str, Any]) -> dict[str, Any]:
    """The results of all processes; each calls this as often as the others."""
    if num_ranks() == 1:
        return results
    shares: list[dict[str, Any]] = [{} for _ in range(num_ranks())]
    torch.distributed.all_gather_object(shares, results, group=_group())
    return {name: result for share in shares for name, result in share.items()}


@cache
def _group() -> torch.distributed.ProcessGroup:
    """Of all processes."""
    PartialState()
    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))


def forget_launch() -> None:
    """Makes this process one of its own: its trainers then use one device, not all that were launched."""
    for name in [name for name in os.environ if name in NAMES or name.startswith(PREFIXES)]:
        del os.environ[name]


def devices(num_workers: int) -> list[str]:
    """`CUDA_VISIBLE_DEVICES` of each worker: of the rank's own GPU, or of all GPUs in turn; none without a GPU."""
    count = torch.cuda.device_count()
    if count == 0:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(i) for i in range(count))
    names = visible.split(",")
    if num_ranks() > 1:
        return [names[int(os.environ.get("LOCAL_RANK", "0")) % count]] * num_workers
    return [names[i % count] for i in range(num_workers)]
