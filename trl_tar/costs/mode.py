"""The ways in which an outer step saves memory."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mode:
    """A way in which an outer step saves memory.

    Args:
        lora_r (`int`, *optional*):
            Rank of a LoRA attack. By default an attack trains all parameters.
        offload, optimizer_in_backward, activation_checkpointing, bf16 (`bool`, *optional*):
            As in [`TARConfig`].
        dtype (`torch.dtype`, *optional*, defaults to `torch.float32`):
            Precision of the weights: `torch.float32` or `torch.bfloat16`.
        optimizer (`str`, *optional*, defaults to `"adamw"`):
            Optimizer of the attack: `"adamw"` or `"adamw_8bit"`.
        devices (`int`, *optional*, defaults to `1`):
            Number of devices over which FSDP2 shards parameters, gradients and optimizers.
    """

    lora_r: int | None = None
    offload: bool = False
    optimizer_in_backward: bool = False
    activation_checkpointing: bool = False
    bf16: bool = True
    dtype: torch.dtype = torch.float32
    optimizer: str = "adamw"
    devices: int = 1

    def __str__(self) -> str:
        words = [
            "all parameters" if self.lora_r is None else f"LoRA, rank {self.lora_r}",
            "offload" * self.offload,
            "optimizer in backward" * self.optimizer_in_backward,
            "activation checkpointing" * self.activation_checkpointing,
            "weights in bfloat16" * (self.dtype == torch.bfloat16),
            "8-bit optimizer" * (self.optimizer == "adamw_8bit"),
            f"FSDP2 on {self.devices}" * (self.devices > 1),
        ]
        return ", ".join(word for word in words if word)
