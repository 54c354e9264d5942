"""What a phase 1 is to a recipe."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..tasks.task import Task
from ..trainers.tar_config import TARConfig


@dataclass(frozen=True)
class Defence:
    """A safeguard that TAR can start from. A recipe adds one as a row of its `defences`, with its settings among the fields
    of the recipe's arguments.

    Args:
        words (`str`):
            What cards call it.
        dataset (`str`):
            The data set that it reads in addition to D_retain.
        strength (`str`):
            The fields of the recipe's arguments to raise where it hid too little, in words.
        train (`Callable`):
            Task, arguments of the recipe, settings of TAR and name of the phase → folder of the trained model.
        check (`Callable`):
            Task, arguments and settings of TAR. It raises `ValueError` for what `train` would refuse.
    """

    words: str
    dataset: str
    strength: str
    train: Callable[[Task, Any, TARConfig, str], Path]
    check: Callable[[Task, Any, TARConfig], None]
