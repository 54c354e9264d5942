"""The folder of a run: which run it belongs to, and what is finished."""

import errno
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..distributed.processes import gathered, rank
from ..files import remove_unfinished, write_json
from ..fingerprints import WEIGHTS


UNWRITTEN = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # disk or quota full, file too large, read only
LOG = "log_history.json"  # written last: it says that the phase is finished


def check_run(folder: Path, run: dict[str, Any]) -> None:
    """Notes in `run.json` what the folder is for; raises `ValueError`, which names what differs, if it is already for
    something else."""
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
    """Keeps the folder to this run until [`release`] or its end, also by a kill; raises `ValueError`, in every process of the
    run, where another run works in it."""
    folder = folder.resolve()
    if folder in _HELD:
        return
    refused = _locked(folder) if rank() == 0 else None
    refusals = gathered({} if refused is None else {"refused": refused})
    if refusals:
        raise ValueError(refusals["refused"])
    _HELD.setdefault(folder, None)


def release() -> None:
    """Lets go of every folder."""
    for lock in filter(None, _HELD.values()):
        lock.release()
    _HELD.clear()


def _locked(folder: Path) -> str | None:
    """Locks the folder; returns why not, where it cannot."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(blocking=False)
    except Timeout:
        return f"Another process works in {str(folder)!r}. Wait for it, or give another output_dir."
    except OSError as error:
        return f"{str(folder)!r} cannot be written ({error.strerror}). Give another output_dir."
    except NotImplementedError:  # a file system without locks
        return None
    _HELD[folder] = lock
    remove_unfinished(folder)
    return None


def _differing(held: Any, wanted: Any) -> str:
    """Returns the names of those parts that are not the same, in brackets."""
    if not isinstance(held, dict) or not isinstance(wanted, dict):
        return ""
    names = [name for name in sorted({*held, *wanted}) if held.get(name) != wanted.get(name)]
    return f" ({', '.join(names)})"


def is_finished(folder: Path, run: dict[str, Any]) -> bool:
    """Returns whether the folder holds the finished model of this run; raises `ValueError` where it is for another."""
    check_run(folder, run)
    return (folder / LOG).is_file() and any(folder.glob(WEIGHTS))


def training_record(folders: Iterable[Path]) -> dict[str, Any] | None:
    """Returns what was trained in each folder, one phase after the other, from the `run.json` there: the field `training` of
    a report. `None` where no folder has one."""
    files = [folder / "run.json" for folder in folders]
    phases = [
        {"name": file.parent.name, "adversaries": [], **json.loads(file.read_text(encoding="utf-8"))}
        for file in files
        if file.is_file()
    ]
    return {"phases": phases} if phases else None
