"""Peak of what one of several CPU ranks holds while it trains with FSDP2, under torchrun: bytes, into a file.

Freed memory must go back to the system at once: run it with MALLOC_MMAP_THRESHOLD_ and MALLOC_TRIM_THRESHOLD_ set.
"""

import gc
import json
import os
import sys
from pathlib import Path

import datasets
import torch
from support import sharded_worker, tiny
from transformers import AutoModelForCausalLM, LlamaConfig, TrainerCallback

from trl_tar.costs.cost import Cost
from trl_tar.costs.timing import trainer_for


CONFIG = LlamaConfig(
    hidden_size=512,
    intermediate_size=1024,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=4,
    vocab_size=4000,
    tie_word_embeddings=False,
)
SMALL = LlamaConfig(
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=1,
    num_key_value_heads=1,
    vocab_size=100,
)
FSDP = {
    "fsdp": True,
    "fsdp_config": {**sharded_worker.FSDP["fsdp_config"], "transformer_layer_cls_to_wrap": ["LlamaDecoderLayer"]},
}
STEPS = 2


def resident(field: str) -> int:
    """Bytes of this process: `"VmRSS"` now, `"VmHWM"` at most."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


class FromTheSecondStep(TrainerCallback):
    """Forgets the peak of what came before: the model before it was sharded, and state that was not there yet."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == STEPS - 1:
            gc.collect()
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def train(config: LlamaConfig, cost: Cost, folder: Path, settings: dict) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    rows = {"per_device_train_batch_size": cost.batch_size // int(os.environ["WORLD_SIZE"])}
    trainer = trainer_for(model, tiny.tokenizer(), cost, STEPS, folder, **FSDP, **rows, **settings)
    if settings.get("bf16"):
        sharded_worker.set_mixed_precision()
    trainer.add_callback(FromTheSecondStep())
    trainer.train()


if __name__ == "__main__":
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    sharded_worker.shard_on_cpu()
    file, cost, settings = Path(sys.argv[1]), Cost(**json.loads(sys.argv[2])), json.loads(sys.argv[3])
    train(SMALL, Cost(cost.batch_size, 8, num_steps=2, interval=2), file.parent / "small", {"bf16": False})
    gc.collect()
    before = resident("VmRSS")
    train(CONFIG, cost, file.parent / "trained", settings)
    if os.environ["RANK"] == "0":
        file.write_text(str(resident("VmHWM") - before), encoding="ascii")
