"""Phases of a recipe: each trains one model into a folder, goes on where it was stopped, and is not repeated."""

import errno
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback

from .gradients import all_reduce
from .records import finite, write_json
from .red_teaming.ranks import gathered, rank
from .sharding import local


WEIGHTS = "*.safetensors"  # of a whole model, its shards, or an adapter
UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # disk or quota full, file too large, read only
LOG = "log_history.json"  # written last: it says that the phase is finished


def check_run(folder: Path, run: dict[str, Any]) -> None:
    """Notes in `run.json` what the folder is for; `ValueError`, which names what differs, if it is already for something else."""
    file = folder / "run.json"
    run = json.loads(json.dumps(run))
    if not file.is_file():
        if any(folder.glob(WEIGHTS)):
            raise ValueError(f"{str(folder)!r} holds a model of unknown origin. Give another folder, or remove it.")
        write_json(file, run)
    held = json.loads(file.read_text())
    unknown = next((name for name in run if name not in held), None)
    if unknown is not None:
        raise ValueError(
            f"{str(folder)!r} holds a run of an older version, which did not note its {unknown!r}. Give another folder, or remove it."
        )
    other = next((name for name in run if held[name] != run[name]), None)
    if other is not None:
        raise ValueError(
            f"{str(folder)!r} holds a run with another {other!r}{_differing(held.get(other), run[other])}. Give another "
            "folder, or remove it."
        )


_HELD: dict[Path, FileLock | None] = {}  # the first process of a run has the lock


def hold(folder: Path) -> None:
    """Keeps the folder to this run until [`release`] or its end, also by a kill; `ValueError`, in every process of the run,
    where another run works in it."""
    folder = folder.resolve()
    if folder in _HELD:
        return
    refused = _locked(folder) if rank() == 0 else None
    told = gathered({} if refused is None else {"refused": refused})
    if told:
        raise ValueError(told["refused"])
    _HELD.setdefault(folder, None)


def release() -> None:
    """Lets go of every folder."""
    for lock in filter(None, _HELD.values()):
        lock.release()
    _HELD.clear()


def _locked(folder: Path) -> str | None:
    """Locks the folder; why not, where that is so."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        return f"Another process works in {str(folder)!r}. Wait for it, or give another output_dir."
    except OSError as error:
        return f"{str(folder)!r} cannot be written ({error.strerror}). Give another output_dir."
    except NotImplementedError:  # of a file system without locks
        return None
    _HELD[folder] = lock
    return None


def _differing(held: Any, wanted: Any) -> str:
    """Names of those parts that are not the same, in brackets."""
    if not isinstance(held, dict) or not isinstance(wanted, dict):
        return ""
    names = [name for name in sorted({*held, *wanted}) if held.get(name) != wanted.get(name)]
    return f" ({', '.join(names)})"


def is_finished(folder: Path, run: dict[str, Any]) -> bool:
    """Whether the folder holds the model of this run; `ValueError` where it is for another."""
    check_run(folder, run)
    return (folder / LOG).is_file() and any(folder.glob(WEIGHTS))


# of a trainer's settings those that decide what it writes and where, but not what it comes to
UNDECISIVE = ("output_dir", "logging", "log_", "save_", "report_to", "run_name", "push_to_hub", "hub_", "disable_tqdm")

SECRETS = re.compile(
    r".*(auth|authorization|(api|access|private|secret)_?key|passwo?r?d|secret|credentials?|token)", re.IGNORECASE
)
TOKENS_OF_TEXT = re.compile(r"(bos|eos|pad|unk|sep|cls|mask)_token")
SECRET_VALUES = re.compile(r"hf_\w{8,}|Bearer\s.*")


def decisive(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that decide what a phase comes to, without secrets, such as the token in `model_init_kwargs`."""
    return _without_secrets({name: value for name, value in settings.items() if not name.startswith(UNDECISIVE)})


def _without_secrets(settings: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: value for name, value in settings.items() if not _is_secret(name, value)}
    return {name: _described(value) for name, value in kept.items()}


def _is_secret(name: str, value: Any) -> bool:
    name = str(name).replace("-", "_")
    named = SECRETS.fullmatch(name) is not None and TOKENS_OF_TEXT.fullmatch(name) is None
    return named or (isinstance(value, str) and SECRET_VALUES.match(value) is not None)


def _described(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _without_secrets(value)
    if isinstance(value, list | tuple):
        return [_described(each) for each in value if not _is_secret("", each)]
    return value


def training_record(folders: Iterable[Path]) -> dict[str, Any] | None:
    """What was trained in each folder, one phase after the other, from the `run.json` there: the field `training` of a report.

    `None` where no folder has one."""
    files = [folder / "run.json" for folder in folders]
    phases = [
        {"name": file.parent.name, "adversaries": [], **json.loads(file.read_text(encoding="utf-8"))}
        for file in files
        if file.is_file()
    ]
    return {"phases": phases} if phases else None


def origin(model: str | Path) -> str:
    """What a phase starts from: the hash of the weights in a folder, or an id of the Hub."""
    files = sorted(Path(model).glob(WEIGHTS))
    if not files:
        return str(model)
    return hashlib.sha256(b"".join(bytes.fromhex(file_sha256(file)) for file in files)).hexdigest()


def file_sha256(file: Path) -> str:
    """Of a file of any size."""
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def train_phase(trainer: Trainer, folder: Path) -> Path:
    """Trains from the last complete checkpoint, if there is one, and leaves model, tokenizer and log in the folder."""
    for noisy in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(noisy)
    trainer.add_callback(_NoCheckpointAtTheEnd())
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
        for file in unfinished.iterdir():
            os.replace(file, folder / file.name)
        unfinished.rmdir()
        write_json(folder / LOG, [_without_nan(entry) for entry in trainer.state.log_history])
    trainer.accelerator.wait_for_everyone()
    return folder


def _check_finite(trainer: Trainer, folder: Path) -> None:
    """Raises `ValueError`, on every device, where training ended in weights that are no numbers."""
    broken = [float(not local(p.detach()).isfinite().all()) for p in trainer.model.parameters()]
    count = torch.tensor(sum(broken), device=trainer.accelerator.device)
    all_reduce([count])
    if count > 0:
        raise ValueError(
            f"The phase {folder.name!r} diverged: its weights are no finite numbers. Lower its learning rate, and remove "
            f"{str(folder)!r}."
        )


def _without_nan(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of a log with `None` where JSON has no number."""
    return {name: finite(value) if isinstance(value, float) else value for name, value in entry.items()}


def _unwritten(error: Exception) -> str | None:
    """Why a file could not be written, such as a full disk; `None` for any other error."""
    if isinstance(error, OSError):
        number = error.errno
    else:
        found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors tells it in its text alone
        number = int(found[1]) if found else None
    if number in UNWRITTEN:
        return os.strerror(number)
    cut_off = any(told in str(error) for told in ("unexpected pos", "PytorchStreamWriter failed writing"))
    return "a file of its checkpoint was cut off" if cut_off else None  # torch.save gives no reason


def _last_complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint with the file that transformers writes last: a kill, or a full disk, can leave half of one."""
    complete = [each for each in folder.glob("checkpoint-*") if _is_json(each / "trainer_state.json")]
    return str(max(complete, key=lambda each: int(each.name.split("-")[1]))) if complete else None


def _is_json(file: Path) -> bool:
    """Whether it is there, and whole."""
    try:
        json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


class _NoCheckpointAtTheEnd(TrainerCallback):
    """Where a run is killed while its model is saved: from a checkpoint of its last step, transformers makes one step more."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_save = False


class _ProgressBar(TrainerCallback):
    """One bar with the time left, in place of the trainer's own lines."""

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
