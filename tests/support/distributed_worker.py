"""Trains one case and writes its weights; run by torchrun on several processes and by plain python on one."""

import os
import sys
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import datasets
import torch
from safetensors.torch import save_file
from support import tiny
from support.several_devices import ADAPTER, ANCHORS, ATTACK, CONTINUED, first_log

from trl_tar import Adversary


SMALL = {**tiny.ATTACK, "batch_size": 1}  # one device has no row at all
SGD = {"optimizer": "sgd", "learning_rate": 0.5}
GROWING = {"attack_length_threshold": 0.0, "initial_attack_length": 4}
CASES = {
    "full": {"adversaries": [Adversary("full", "forget", **ATTACK)]},
    "lora": {"adversaries": [Adversary("lora", "forget", lora_r=2, **ATTACK)]},
    "no-rows": {"adversaries": [Adversary("full", "forget", **SMALL)], "tamper_resistance_batch_size": 1},
    "micro-batches": {
        "adversaries": [Adversary("full", "forget", micro_batch_size=2, **ATTACK)],
        "tamper_resistance_micro_batch_size": 1,
    },
    "several": {
        "adversaries": [
            Adversary("mixture", mixture={"forget": 1, "rehearsal": 1}, **ATTACK),
            Adversary("dpo-lora", "pairs", objective="dpo", lora_r=2, **ATTACK),
            Adversary("schedule-free", "forget", optimizer="schedule_free_adamw", **ATTACK),
        ],
        "adversaries_per_step": 2,
    },
    "diverged": {"adversaries": [Adversary("full", "forget", **{**ATTACK, **SGD, "learning_rate": 1e300})]},
    "dpo": {"adversaries": [Adversary("full", "forget", **ATTACK)], "tamper_resistance_loss": "dpo"},
    "clamped": {
        "adversaries": [Adversary("full", "forget", **ATTACK)],
        "tamper_resistance_loss": "negative_cross_entropy",
    },
    "accumulated": {"adversaries": [Adversary("full", "forget", **ATTACK)], "gradient_accumulation_steps": 2},
    "anchors": {"adversaries": [Adversary("full", "forget", **ATTACK)], **ANCHORS},
    "anchors-accumulated": {
        "adversaries": [Adversary("full", "forget", **ATTACK)],
        "gradient_accumulation_steps": 2,
        **ANCHORS,
    },
    "schedule-free": {"adversaries": [Adversary("full", "forget", **ATTACK)], "optim": "schedule_free_adamw"},
    "peft": {
        "adversaries": [Adversary("full", "forget", **ATTACK)],
        "peft_config": ADAPTER,
    },
    "groups": {
        "adversaries": [
            Adversary("full", "forget", **ATTACK),
            Adversary("dpo-lora", "pairs", objective="dpo", lora_r=2, **ATTACK),
            Adversary("diverged", "forget", **{**ATTACK, **SGD, "learning_rate": 1e300}),
        ],
        "adversaries_per_step": 4,
        "adversary_parallel_size": 2,
    },
    "continued": {**CONTINUED, **GROWING},
    "continued-groups": {**CONTINUED, **GROWING, "adversary_parallel_size": 2},
    "groups-in-backward": {
        "adversaries": [Adversary("full", "forget", **ATTACK), Adversary("lora", "forget", lora_r=2, **ATTACK)],
        "adversaries_per_step": 2,
        "adversary_parallel_size": 2,
        "optimizer_in_backward": True,
        "offload": True,
    },
    "float32": {"adversaries": [Adversary("full", "forget", **{**ATTACK, **SGD})]},
    "float32-lora": {"adversaries": [Adversary("lora", "forget", lora_r=2, **{**ATTACK, **SGD})]},
    "float32-autocast": {"adversaries": [Adversary("full", "forget", **ATTACK)], "bf16": True},
}
ROUNDED = {  # weights in bfloat16: not those of one process, which adds up in another order, and the same on all
    "bfloat16": {"adversaries": [Adversary("full", "forget", **ATTACK)], "bf16": True},
}


def train(case: str, output: Path, world_size: int) -> None:
    settings = {**CASES, **ROUNDED}[case].copy()
    if world_size == 1:
        settings.pop("adversary_parallel_size", None)
    global_batch = 4 // settings.get("gradient_accumulation_steps", 1)
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(case.split("-")[0], torch.float64)
    trainer = tiny.make_trainer(
        output / f"run-{case}-{world_size}",
        tiny.gpt2(dtype=dtype),
        per_device_train_batch_size=global_batch // world_size,
        **settings,
    )
    trainer.train()
    if trainer.is_world_process_zero():
        save_file(tiny.weights(trainer.model), output / f"{case}-{world_size}.safetensors")
        save_file(first_log(trainer), output / f"{case}-{world_size}-log.safetensors")
    ranks_agree(trainer.model)


def ranks_agree(model) -> None:
    if not torch.distributed.is_initialized():
        return
    for name, p in model.named_parameters():
        theirs = [torch.empty_like(p) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(theirs, p.detach())
        assert all(torch.equal(theirs[0], other) for other in theirs), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    for case in sys.argv[2:]:
        train(case, Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1")))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
