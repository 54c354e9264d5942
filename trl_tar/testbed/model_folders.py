"""Folders of the testbed's models: those that are shipped, and those that are built once and cached."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_NAME

from ..models.transformers_4 import write_for_transformers_4


SHIPPED = Path(__file__).parent / "shipped"
Build = Callable[[], tuple[PreTrainedModel, PreTrainedTokenizerBase]]


def cache_folder() -> Path:
    """The folder that `TRL_TAR_CACHE` names, or `trl_tar` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "trl_tar"
    return Path(os.environ.get("TRL_TAR_CACHE", default))


def shipped_or_cached(shipped: str, cached: str, build: Build) -> Path:
    """The shipped model of that name if there is one, or else [`cached_model`]."""
    folder = SHIPPED / shipped
    return folder if (folder / SAFE_WEIGHTS_NAME).is_file() else cached_model(cached, build)


def cached_model(name: str, build: Build) -> Path:
    """The folder of a model and its tokenizer in the cache folder, built and saved if it is not there yet.

    Args:
        name (`str`):
            Name of the folder in the cache folder, with slashes for folders in folders.
        build (`Callable`):
            Returns the model and its tokenizer. Of several processes that ask at the same time, one calls it.
    """
    folder = cache_folder() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not (folder / SAFE_WEIGHTS_NAME).is_file():
            save_in_one_piece(folder, *build())
    return folder


def save_in_one_piece(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Saves model and tokenizer to `folder`, in place of what is there, so that a killed run leaves nothing half-written."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    unfinished.chmod(0o755)  # mkdtemp lets the user alone read
    model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    write_for_transformers_4(unfinished)
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(unfinished, folder)
