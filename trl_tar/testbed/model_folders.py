"""The testbed's models that are shipped, and models and answers that are made once and cached."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import SAFE_WEIGHTS_NAME

from ..files import write_json
from ..models.transformers_4 import write_for_transformers_4


SHIPPED = Path(__file__).parent / "shipped"
logger = logging.getLogger(__name__)
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
            _tell_of(folder)
            save_in_one_piece(folder, *build())
    return folder


def cached_json(name: str, make: Callable[[], Any]) -> Any:
    """What the file of that name in the cache folder holds, made and written if it is not there yet."""
    file = cache_folder() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{file}.lock"):
        if not file.is_file():
            _tell_of(file)
            write_json(file, make())
    return json.loads(file.read_text(encoding="utf-8"))


def _tell_of(path: Path) -> None:
    # as it takes minutes, and nothing else is said meanwhile
    logger.warning("Making %s, once; this can take some minutes.", path)


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
