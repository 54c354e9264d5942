"""Processes that `accelerate launch` or torchrun started, on one machine or several, each of which does a share of the jobs."""

import os
from datetime import timedelta
from functools import cache
from typing import Any

import torch
from accelerate import PartialState


# variables of the environment by which launchers tell a process about the others
LAUNCH_PREFIXES = ("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "LOCAL_", "GROUP_", "ROLE_", "MASTER_")
LAUNCH_NAMES = ("RANK", "WORLD_SIZE")


def num_ranks() -> int:
    """The number of processes that were launched; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The rank of this process among those that were launched, from 0."""
    return int(os.environ.get("RANK", "0"))


def meet() -> None:
    """Waits until all processes have started; afterwards they wait for each other as long as `_group` allows."""
    if num_ranks() > 1:
        _group()


def gathered(results: dict[str, Any]) -> dict[str, Any]:
    """The results of all processes by name. Every process has to call this equally often."""
    if num_ranks() == 1:
        return results
    shares: list[dict[str, Any]] = [{} for _ in range(num_ranks())]
    torch.distributed.all_gather_object(shares, results, group=_group())
    return {name: result for share in shares for name, result in share.items()}


@cache
def _group() -> torch.distributed.ProcessGroup:
    """The group of all processes, on their CPUs, as results are no tensors."""
    PartialState()
    # processes wait here for the attacks of others, which may take days: torch's 30 minutes would end the run
    return torch.distributed.new_group(backend="gloo", timeout=timedelta(days=30))


def forget_launch() -> None:
    """Makes this process independent of its launch, so that its trainers use one device and not all that were launched."""
    for name in [name for name in os.environ if name in LAUNCH_NAMES or name.startswith(LAUNCH_PREFIXES)]:
        del os.environ[name]


def worker_devices(num_workers: int) -> list[str]:
    """`CUDA_VISIBLE_DEVICES` of each worker of this process; none without a GPU.

    After a launch all workers have the GPU of this process, without one they have all GPUs in turn."""
    count = torch.cuda.device_count()
    if count == 0:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(str(i) for i in range(count))
    names = visible.split(",")
    if num_ranks() > 1:
        return [names[int(os.environ.get("LOCAL_RANK", "0")) % count]] * num_workers
    return [names[i % count] for i in range(num_workers)]
