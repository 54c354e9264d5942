"""The pool of continued attackers by the configuration, and in checkpoints."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..adversaries.adversary import Adversary
from ..simulation.attacker_pool import AttackerPool
from ..simulation.curriculum import Curriculum
from .tar_config import TARConfig


def new_pool(args: TARConfig, adversaries: Sequence[Adversary]) -> AttackerPool:
    """The pool that a configuration asks for, without an attacker."""
    longest = max(adversary.num_steps for adversary in adversaries)
    first = args.initial_attack_length or args.steps_per_visit or longest
    curriculum = Curriculum(first, longest, args.attack_length_threshold, args.attack_length_growth)
    return AttackerPool(args.steps_per_visit, args.num_attackers, curriculum, args.offload)


def save_pool(checkpoint: str, pool: AttackerPool, args: TARConfig, adversaries: Sequence[Adversary]) -> None:
    """Writes this process's attackers into the checkpoint. Every process calls it; without continued attacks it does nothing."""
    if pool.steps_per_visit is not None:
        torch.save({"settings": _settings(args, adversaries), **pool.state_dict()}, _file(checkpoint, args))


def load_pool(checkpoint: str, pool: AttackerPool, args: TARConfig, adversaries: Sequence[Adversary]) -> None:
    """Reads them; `ValueError` for a checkpoint with none, or with those of other settings."""
    if pool.steps_per_visit is None:
        return
    file, settings = _file(checkpoint, args), _settings(args, adversaries)
    saved: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True) if file.is_file() else {}
    if saved.get("settings") != settings:
        raise ValueError(
            f"The checkpoint {str(checkpoint)!r} has no attackers of steps_per_visit={args.steps_per_visit}, num_attackers="
            f"{args.num_attackers}, {args.world_size} processes and these adversaries, so they could not go on. Resume with the "
            "settings of the run that wrote it."
        )
    pool.load_state_dict(saved, adversaries)


def _file(checkpoint: str, args: TARConfig) -> Path:
    return Path(checkpoint) / f"tar_attackers_{args.process_index}.pt"


def _settings(args: TARConfig, adversaries: Sequence[Adversary]) -> dict[str, Any]:
    """What must be the same for attackers to go on."""
    sizes = {name: getattr(args, name) for name in ("steps_per_visit", "num_attackers", "world_size")}
    return sizes | {"adversaries": json.dumps([asdict(adversary) for adversary in adversaries], sort_keys=True)}
