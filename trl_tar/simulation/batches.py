"""Tokenised rows as micro-batches on the device, and the log-probabilities that a reference gives to pairs."""

from collections.abc import Iterable, Iterator

import torch
from accelerate import Accelerator
from torch import nn
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ..data.tokenisation import length_of
from ..distributed.device_groups import DeviceGroup
from ..distributed.gradients import FILLER, Batch
from ..distributed.sharding import reshard
from ..losses import IGNORED, sequence_log_probs
from ..models.forward_passes import add_positions, in_eval_mode, labelled_logits


class PreferenceCollator:
    """Collates B pairs to `input_ids`, `attention_mask` and `labels` of shape `(2B, T)`, the B chosen ones first."""

    def __init__(self, pad_token_id: int, max_length: int | None, truncation_mode: str = "keep_start"):
        self._collate = DataCollatorForPreference(pad_token_id, max_length, truncation_mode)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self._collate(rows)
        labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, IGNORED)
        return {**batch, "labels": labels}


def device_share(rows: list, rank: int, world_size: int, micro_batch_size: int | None) -> Iterator[list]:
    """This device's rows of a global batch, in micro-batches; an empty share gives no micro-batch."""
    share = rows[rank::world_size]
    size = micro_batch_size or max(len(share), 1)
    for start in range(0, len(share), size):
        yield share[start : start + size]


class Batches:
    """Collates tokenised rows by objective, `"sft"` or `"dpo"`.

    Args:
        accelerator ([`~accelerate.Accelerator`]):
            Device and autocast.
        devices ([`DeviceGroup`]):
            The devices that share a batch.
        pad_token_id (`int`):
            Id of the padding.
        dtype (`torch.dtype`):
            Precision of the reference's log-probabilities.
        max_length (`int`), truncation_mode (`str`):
            How pairs are cut, as in [`~trl.DPOConfig`].
        sharded (`bool`, *optional*, defaults to `False`):
            Whether FSDP2 shards the model. Every device then gets as many micro-batches as the first one, the last ones
            being fillers.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        devices: DeviceGroup,
        pad_token_id: int,
        dtype: torch.dtype,
        max_length: int | None,
        truncation_mode: str,
        sharded: bool = False,
    ):
        self.accelerator, self.devices, self.dtype, self.sharded = accelerator, devices, dtype, sharded
        self.collators = {
            "sft": DataCollatorForLanguageModeling(pad_token_id),
            "dpo": PreferenceCollator(pad_token_id, max_length, truncation_mode),
        }

    def micro_batches(self, rows: list[dict], objective: str, micro_batch_size: int | None) -> list[Batch]:
        """This device's share of the rows of all devices, padded and on the device.

        Where a share is cut into several micro-batches, rows of similar length are together."""
        rank, devices = self.devices.rank, self.devices.size
        if micro_batch_size is not None and micro_batch_size * devices < len(rows):  # the mean over them is the same
            rows = sorted(rows, key=length_of)
        shares = list(device_share(rows, rank, devices, micro_batch_size))
        longest = len(list(device_share(rows, 0, devices, micro_batch_size))) if self.sharded else 0
        filler = [rows[:1]] * (longest - len(shares))
        batches = [self._batch(share, objective) for share in [*shares, *filler]]
        for batch in batches[len(shares) :]:
            batch[FILLER] = torch.ones(())
        return batches

    def _batch(self, rows: list[dict], objective: str) -> Batch:
        batch = self.collators[objective](rows)
        if "reference_log_probs" in rows[0]:
            pairs = torch.tensor([row["reference_log_probs"] for row in rows], dtype=self.dtype)
            batch["reference_log_probs"] = pairs.T.flatten()  # (B, 2) → (2B,), the chosen ones first
        add_positions(batch)
        return {name: self._moved(value) for name, value in batch.items()}

    def _moved(self, value: torch.Tensor) -> torch.Tensor:
        """The tensor on the device. The copy waits for nothing that was queued there: a GPU reads pinned memory itself."""
        device = self.accelerator.device
        return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)

    def add_reference(self, model: nn.Module, batches: Iterable[Batch]) -> None:
        """Adds to batches of pairs the log-probabilities that the model gives them now."""
        # accelerate patches autocast into the forward pass only when training starts
        with torch.no_grad(), in_eval_mode(model), self.accelerator.autocast():
            for batch in batches:
                batch["reference_log_probs"] = sequence_log_probs(*labelled_logits(model, batch))
        reshard(model)  # FSDP2 keeps its root gathered after a pass without gradient, and steps would not reach it

    def add_reference_to_rows(self, model: nn.Module, rows: list[dict], size: int) -> None:
        """Adds them to rows of pairs, `size` rows in each pass."""
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            batch = self._batch(chunk, "dpo")
            self.add_reference(model, [batch])
            for row, *pair in zip(chunk, *batch["reference_log_probs"].view(2, -1).tolist(), strict=True):
                row["reference_log_probs"] = pair
