"""Trainers whose step is put together of several gradients, on tiny models; run by torchrun or plain python, it trains them.

`python added_gradients.py FOLDER CASE …` writes the weights that each case ends with."""

import os
import sys
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

import torch
from datasets import Dataset
from safetensors.torch import save_file
from support import tiny

from trl_tar.trainers.baselines.booster import BoosterConfig
from trl_tar.trainers.baselines.by_name import BASELINES
from trl_tar.trainers.baselines.ctrap import CTRAPConfig


ROWS = tiny.tokenised()
CASES = {  # the beginning of a name is that of the trainer
    "Booster": {},
    "Booster-antibody": BoosterConfig.presets["antibody"],
    "CTRAP": {},
    "CTRAP-released": CTRAPConfig.presets["released"],
    "SEAM": {"radius": 1e-6, "cosine_weight": 0.3},
}


def trainer(folder: Path, case: str, model=None, callback=None, **settings):
    trainer_class, settings = (
        BASELINES[case.split("-")[0].lower()],
        {**tiny.TRAINER, "max_steps": 1, **CASES[case], **settings},
    )
    refusals = {"refusal_dataset": Dataset.from_list(ROWS["rehearsal"])} if case == "Booster-antibody" else {}
    return trainer_class(
        tiny.gpt2() if model is None else model,
        trainer_class.config_class(str(folder), **settings),
        train_dataset=Dataset.from_list(ROWS["retain"]),
        forget_dataset=Dataset.from_list(ROWS["forget"]),
        processing_class=tiny.tokenizer(),
        callbacks=[] if callback is None else [callback],
        **refusals,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    output, processes = Path(sys.argv[1]), int(os.environ.get("WORLD_SIZE", "1"))
    for case in sys.argv[2:]:
        settings = {"per_device_train_batch_size": 4 // processes, "max_steps": 2, "learning_rate": 0.01}
        trained = trainer(output / f"run-{case}-{processes}", case, **settings)
        trained.train()
        if trained.is_world_process_zero():
            save_file(tiny.weights(trained.model), output / f"{case}-{processes}.safetensors")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
