"""Trains earlier defences and writes their weights; run by torchrun on several processes and by plain python on one."""

import os
import sys
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from safetensors.torch import save_file
from support import tiny
from support.baselines import trainer

from trl_tar.trainers.baselines.by_name import BASELINES


if __name__ == "__main__":
    torch.set_num_threads(1)
    output, processes = Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1"))
    for name in sys.argv[2:]:
        settings = {"per_device_train_batch_size": 4 // processes, "max_steps": 2, "learning_rate": 0.01}
        trained = trainer(output / f"{name}-{processes}", BASELINES[name], **settings)
        trained.train()
        if trained.is_world_process_zero():
            save_file(tiny.weights(trained.model), output / f"{name}-{processes}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
