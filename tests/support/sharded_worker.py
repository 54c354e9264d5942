"""Trains cases with FSDP2 on CPU ranks, under torchrun; accelerate makes DDP of FSDP on a CPU, so its state is told otherwise."""

import os
import sys
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import datasets
import torch
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from safetensors.torch import save_file
from support import tiny
from support.several_devices import ADAPTER, ANCHORS, ATTACK, CONTINUED, first_log
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerCallback

from trl_tar import Adversary, RandomMappingConfig, RandomMappingTrainer
from trl_tar.distributed.sharding import is_sharded, whole


CASES = {
    "full": {"adversaries": [Adversary("full", "forget", **ATTACK)]},
    "lora": {"adversaries": [Adversary("lora", "forget", lora_r=2, **ATTACK)]},
    "few-rows": {
        "adversaries": [Adversary("full", "forget", **{**ATTACK, "batch_size": 1})],
        "tamper_resistance_batch_size": 1,
    },
    "dpo-full": {"adversaries": [Adversary("dpo", "pairs", objective="dpo", **ATTACK)]},
    "accumulated": {"adversaries": [Adversary("full", "forget", **ATTACK)], "gradient_accumulation_steps": 2},
    "accumulated-lora": {
        "adversaries": [Adversary("lora", "forget", lora_r=2, **ATTACK)],
        "gradient_accumulation_steps": 2,
    },
}
MORE_CASES = {
    "micro-batches": {
        "adversaries": [Adversary("full", "forget", micro_batch_size=2, max_grad_norm=0.1, **ATTACK)],
        "tamper_resistance_micro_batch_size": 1,
    },
    "dpo": {
        "adversaries": [Adversary("dpo-lora", "pairs", objective="dpo", lora_r=2, **ATTACK)],
        "tamper_resistance_loss": "dpo",
    },
    "anchors": {
        "adversaries": [Adversary("full", "forget", **ATTACK)],
        **ANCHORS,
    },
    "random-mapping": {},
    "schedule-free": {"adversaries": [Adversary("full", "forget", **ATTACK)], "optim": "schedule_free_adamw"},
    "autocast": {"adversaries": [Adversary("full", "forget", **ATTACK)], "bf16": True},
    "peft": {"adversaries": [Adversary("full", "forget", **ATTACK)], "peft_config": ADAPTER},
    "peft-lora": {"adversaries": [Adversary("lora", "forget", lora_r=2, **ATTACK)], "peft_config": ADAPTER},
    "checkpointed": {"adversaries": [Adversary("full", "forget", **ATTACK)], "activation_checkpointing": True},
    "checkpointed-lora": {
        "adversaries": [Adversary("lora", "forget", lora_r=2, **ATTACK)],
        "activation_checkpointing": True,
    },
    "continued": CONTINUED,
    "averaged-attack": {"adversaries": [Adversary("a", "forget", optimizer="schedule_free_adamw", **ATTACK)]},
    "diverged": {
        "adversaries": [Adversary("full", "forget", **{**ATTACK, "optimizer": "sgd", "learning_rate": 1e300})]
    },
    "best": {  # the last, whose folder transformers looks for before FSDP2 has made it
        "adversaries": [Adversary("full", "forget", **ATTACK)],
        "optim": "schedule_free_adamw",
        "eval_dataset": Dataset.from_list(tiny.tokenised()["retain"]),
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "load_best_model_at_end": True,
    },
    "autocast-lora": {"adversaries": [Adversary("lora", "forget", lora_r=2, **ATTACK)], "bf16": True},
}
RETAIN = Dataset.from_list(tiny.tokenised_language(tiny.prompt_completion(24, "retain")))
FSDP = {
    "fsdp": True,
    "fsdp_config": {
        "version": 2,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": ["GPT2Block"],
        "state_dict_type": "SHARDED_STATE_DICT",
    },
}


def shard_on_cpu() -> None:
    """Accelerate keeps FSDP for accelerators: on CPU ranks it is set here as it would be there."""
    made = AcceleratorState.__init__

    def told(self, *args, fsdp_plugin=None, **kwargs):
        made(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
            PartialState._shared_state["distributed_type"] = DistributedType.FSDP  # what every later one is made from

    AcceleratorState.__init__ = told


def random_mapping_trainer(output: Path, world_size: int, **settings) -> RandomMappingTrainer:
    rows = {"per_device_train_batch_size": 8 // world_size, "forget_batch_size": 8 // world_size}
    return RandomMappingTrainer(
        tiny.gpt2(),
        RandomMappingConfig(str(output), **{**tiny.TRAINER, **rows, **settings}),
        train_dataset=RETAIN,
        forget_dataset=Dataset.from_list(tiny.tokenised()["forget"]),
        processing_class=tiny.tokenizer(),
    )


def trainer_for(case: str, output: Path, world_size: int, **settings):
    settings = {**CASES, **MORE_CASES}[case] | {**(FSDP if world_size > 1 else {}), **settings}
    if case == "random-mapping":
        return random_mapping_trainer(output / f"run-{case}", world_size, **settings)
    rows = 8 // settings.get("gradient_accumulation_steps", 1)
    trainer = tiny.make_trainer(
        output / f"run-{case}",
        tiny.gpt2(dtype=torch.float32 if settings.get("bf16") else torch.float64),
        data={"retain": RETAIN},
        per_device_train_batch_size=rows // world_size,
        **settings,
    )
    if settings.get("bf16") and world_size > 1:
        set_mixed_precision()
    return trainer


def set_mixed_precision() -> None:
    """What accelerate sets where it takes FSDP for what it is."""
    AcceleratorState().fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16
    )


class Killed(TrainerCallback):
    """Ends every process once the second checkpoint is whole."""

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == 2:
            torch.distributed.barrier()
            os._exit(9)


def train(case: str, output: Path, world_size: int, job: str) -> None:
    """Writes weights, log, and the model that the trainer saves.

    `job` is `"train"`; or `"kill"`, to be stopped in the middle; or `"resume"`, from there."""
    checkpoints = {"save_strategy": "steps", "save_steps": 1} if job != "train" else {}
    trainer = trainer_for(case, output, world_size, **checkpoints)
    if job == "kill":
        trainer.add_callback(Killed())
    trainer.train(resume_from_checkpoint=str(output / f"run-{case}" / "checkpoint-2") if job == "resume" else None)
    assert is_sharded(trainer.model) == (world_size > 1)
    weights = {name: whole(p.detach()).contiguous().clone() for name, p in trainer.model.named_parameters()}
    log = first_log(trainer)
    if trainer.state.best_model_checkpoint is not None:
        log["best_step"] = torch.tensor(float(trainer.state.best_model_checkpoint.rpartition("-")[2]))
    trainer.save_model(output / f"{case}-{world_size}-{job}")
    if trainer.is_world_process_zero():
        save_file(weights, output / f"{case}-{world_size}-{job}.safetensors")
        save_file(log, output / f"{case}-{world_size}-{job}-log.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size > 1:
        shard_on_cpu()
    for job in sys.argv[2:]:  # such as train:full
        kind, _, case = job.partition(":")
        train(case, Path(sys.argv[1]), world_size, kind)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
