"""A ledger of the memory of a training: bytes of live storages by kind and place, and their peak."""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..optim.offload import is_on_host
from ..trainers.tar_trainer import TARTrainer


Bytes = dict[str, dict[str, int]]  # kind → "device" and "host" → bytes


class Ledger(TorchDispatchMode):
    """Records every storage that is made while it is entered, and when it is freed.

    Args:
        known (`Iterable[torch.Tensor]`, *optional*):
            Tensors that were made before.

    Attributes:
        live (`int`):
            Bytes of all storages now, on host and device together.
        peak (`int`):
            The largest value that `live` has had.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()):
        super().__init__()
        self._seen: dict[int, tuple[weakref.ref, int]] = {}  # id of a storage → the storage, its bytes
        self.live = self.peak = 0
        for tensor in known:
            self._add(tensor.untyped_storage())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if torch.is_tensor(leaf):
                self._add(leaf.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key not in self._seen:
            self._seen[key] = weakref.ref(storage, lambda _: self._remove(key)), size
            self.live += size
            self.peak = max(self.peak, self.live)

    def _remove(self, key: int) -> None:
        self.live -= self._seen.pop(key)[1]

    def by_kind(self, kinds: Mapping[str, Iterable[torch.Tensor]]) -> Bytes:
        """Bytes of each kind at present. A storage counts for the first kind that it belongs to, or else as `"other"`."""
        left = {key: size for key, (_, size) in self._seen.items()}
        by_kind: Bytes = {}
        for kind, tensors in kinds.items():
            by_kind[kind] = {"device": 0, "host": 0}
            for tensor in tensors:
                place = "host" if is_on_host(tensor) else "device"
                by_kind[kind][place] += left.pop(id(tensor.untyped_storage()), 0)
        by_kind["other"] = {"device": sum(left.values()), "host": 0}
        return by_kind


def measure_memory(trainer: TARTrainer) -> tuple[Bytes, int]:
    """Trains, and returns the bytes of each kind at the last step of an attack, and the peak of all bytes, activations included."""
    at_last_step: Bytes = {}
    inner: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()  # keeps no attack's state alive

    def before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer is not trainer.optimizer.optimizer:
            inner.add(optimizer)
            at_last_step.update(ledger.by_kind(_kinds(trainer, inner)))

    hook = register_optimizer_step_pre_hook(before_step)
    known = [*trainer.model.parameters(), *trainer.model.buffers(), *(value for _, value in trainer.reference.weights)]
    try:
        with Ledger(known) as ledger:
            trainer.train()
    finally:
        hook.remove()
    return at_last_step, ledger.peak


def _kinds(trainer: TARTrainer, inner: Iterable[torch.optim.Optimizer]) -> dict[str, list[torch.Tensor]]:
    def state(optimizer: Any) -> list[torch.Tensor]:
        return [value for values in optimizer.state.values() for value in values.values() if torch.is_tensor(value)]

    attacked = {p: None for optimizer in inner for group in optimizer.param_groups for p in group["params"]}
    return {
        "weights": [*trainer.model.parameters(), *trainer.model.buffers()],
        "snapshot": trainer.snapshot_room.tensors,
        "attack's gradient": [p.grad for p in attacked if p.grad is not None],
        "attack's optimizer": [value for optimizer in inner for value in state(optimizer)],
        "retain gradient": trainer.outer_gradient.retain,
        "L_TR's gradient": trainer.outer_gradient.tamper_resistance,
        "outer optimizer": state(trainer.optimizer),
        "reference": [value for _, value in trainer.reference.weights],
    }
