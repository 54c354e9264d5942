"""Phases of a recipe: each trains one model into a folder, goes on where it was stopped, and is not repeated."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from ..distributed.gradients import all_reduce
from ..distributed.sharding import local
from ..files import finite, write_json
from ..models.transformers_4 import write_for_transformers_4
from .run_folder import LOG, UNWRITTEN


def train_phase(trainer: Trainer, folder: Path) -> Path:
    """Trains from the last complete checkpoint, if there is one, and leaves model, tokenizer and log in the folder.

    Args:
        trainer ([`~transformers.Trainer`]):
            The trainer, whose `output_dir` is the folder.
        folder (`Path`):
            Folder of the phase.

    Returns:
        `Path`: the folder.

    Raises:
        `ValueError`: if training ended in weights that are no finite numbers.
        `OSError`: if the disk is full; the phase goes on from its last checkpoint.
    """
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(_NoCheckpointAtTheEnd())
    if trainer.is_world_process_zero():
        trainer.add_callback(_OldestByStep())
    if trainer.is_world_process_zero():
        trainer.add_callback(_ProgressBar(folder.name.replace("_", " ")))
    unfinished = folder / "unfinished"
    try:
        trainer.train(resume_from_checkpoint=_last_complete_checkpoint(folder))
        _check_finite(trainer, folder)
        trainer.model.config.use_cache = True
        trainer.save_model(str(unfinished))
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = _unwritten(error)
        if reason is None:
            raise
        raise OSError(
            f"{str(folder)!r} cannot be written ({reason}). Make room and start again: it goes on from its last checkpoint."
        ) from error
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        write_for_transformers_4(unfinished)  # trainers of TRL, such as that of DPO, save as transformers does
        for file in unfinished.iterdir():
            os.replace(file, folder / file.name)
        unfinished.rmdir()
        write_json(folder / LOG, [_without_nan(entry) for entry in trainer.state.log_history])
    trainer.accelerator.wait_for_everyone()
    return folder


def _check_finite(trainer: Trainer, folder: Path) -> None:
    """Raises `ValueError`, on every device, where training ended in weights that are no finite numbers."""
    broken = [float(not local(p.detach()).isfinite().all()) for p in trainer.model.parameters()]
    count = torch.tensor(sum(broken), device=trainer.accelerator.device)
    all_reduce([count])
    if count > 0:
        raise ValueError(
            f"The phase {folder.name!r} diverged: its weights are no finite numbers. Lower its learning rate, and remove "
            f"{str(folder)!r}."
        )


def _without_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an entry of a log with `None` where JSON has no number."""
    return {name: finite(value) if isinstance(value, float) else value for name, value in entry.items()}


def _unwritten(error: Exception) -> str | None:
    """Returns why a file could not be written, such as a full disk, or `None` for any other error."""
    if isinstance(error, OSError):
        number = error.errno
    else:
        found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors says it in its text alone
        number = int(found[1]) if found else None
    if number in UNWRITTEN:
        return os.strerror(number)
    cut_off = any(text in str(error) for text in ("unexpected pos", "PytorchStreamWriter failed writing"))
    return "a file of its checkpoint was cut off" if cut_off else None  # torch.save gives no reason


def _last_complete_checkpoint(folder: Path) -> str | None:
    """Returns the newest checkpoint that has the file which transformers writes last: a kill, or a full disk, can leave half
    of one."""
    complete = [place for place in folder.glob("checkpoint-*") if _is_json(place / "trainer_state.json")]
    return str(max(complete, key=_step_of)) if complete else None


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _is_json(file: Path) -> bool:
    """Returns whether the file is there, and whole."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class _NoCheckpointAtTheEnd(TrainerCallback):
    """Writes no checkpoint of the last step: a run that is killed while its model is saved would make one step more from it."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_save = False


class _OldestByStep(TrainerCallback):
    """Dates checkpoints by their step before another is written: transformers removes those that were changed first, and a clock
    that was set back would make that the new one each time."""

    def on_step_end(self, args, state, control, **kwargs):
        if control.should_save:
            for place in Path(args.output_dir).glob("checkpoint-*"):
                seconds = _step_of(place)  # of 1970, which is before any clock
                os.utime(place, (seconds, seconds))


class _ProgressBar(TrainerCallback):
    """Shows one bar with the time left, in place of the trainer's own lines."""

    def __init__(self, label: str):
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self.bar = Progress(*columns, TextColumn("left"), TimeRemainingColumn())
        self.task = self.bar.add_task(label)

    def on_train_begin(self, args, state, control, **kwargs):
        self.bar.update(self.task, total=state.max_steps, completed=state.global_step)
        self.bar.start()

    def on_step_end(self, args, state, control, **kwargs):
        self.bar.update(self.task, completed=state.global_step)

    def on_train_end(self, args, state, control, **kwargs):
        self.bar.stop()
