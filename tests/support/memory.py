"""Memory modes, and what a device holds in each."""

import torch

from trl_tar.costs.mode import Mode


SHORT, LONG = {"batch_size": 4, "length": 32}, {"batch_size": 8, "length": 128}
LEAN = {"offload": True, "optimizer_in_backward": True}
CASES = {
    "short rows": (Mode(bf16=False), SHORT),
    "long rows": (Mode(bf16=False), LONG),
    "bf16": (Mode(), LONG),
    "LoRA": (Mode(lora_r=8, bf16=False), SHORT),
    "checkpointing": (Mode(activation_checkpointing=True, bf16=False), LONG),
    "offload": (Mode(offload=True, bf16=False), SHORT),
    "lean": (Mode(**LEAN, bf16=False), SHORT),
    "lean, LoRA, bf16": (Mode(lora_r=4, **LEAN), LONG),
    "all": (Mode(lora_r=4, **LEAN, activation_checkpointing=True), LONG),
    "weights in bf16": (Mode(dtype=torch.bfloat16), LONG),
    "lean, weights in bf16": (Mode(dtype=torch.bfloat16, **LEAN), SHORT),
    "lean, LoRA, weights in bf16": (Mode(lora_r=4, dtype=torch.bfloat16, **LEAN), LONG),
    "8-bit": (Mode(optimizer="adamw_8bit", **LEAN, bf16=False), SHORT),
    "8-bit, weights in bf16": (Mode(optimizer="adamw_8bit", dtype=torch.bfloat16), LONG),
    "output anchor": (Mode(bf16=False), {**LONG, "output_anchor": True}),
    "output anchor, lean, bf16": (Mode(**LEAN), {**LONG, "output_anchor": True}),
    "continued": (Mode(bf16=False), {**SHORT, "attackers": 3}),
    "continued, LoRA": (Mode(lora_r=8, bf16=False), {**SHORT, "attackers": 3}),
    "continued, offload": (Mode(offload=True, bf16=False), {**SHORT, "attackers": 3}),
    "two attacks a step": (Mode(bf16=False), {**SHORT, "adversaries": 2}),
}


def settings_of(mode):
    """The settings of `TARConfig` for a training that a plan is compared with."""
    names = ("offload", "optimizer_in_backward", "activation_checkpointing", "bf16")
    return {"optim": "schedule_free_adamw", **{name: getattr(mode, name) for name in names}}


MODES = {
    "offload": {"offload": True},
    "in backward": {"optimizer_in_backward": True},
    "both": LEAN,
}
# bytes per parameter on the device in float32 at its fullest, at a step of the attack or a judgement, as README has them
BARS = {
    ("full", "none"): 40.0,
    ("full", "offload"): 20.0,
    ("full", "both"): 16.0,
    ("8-bit", "both"): 10.0,
    ("lora", "none"): 28.0,
    ("lora", "offload"): 12.0,
    ("lora", "both"): 8.0,
}
