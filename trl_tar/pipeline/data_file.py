"""The file that says where a run's data and metrics are, for those who attack or verify its model."""

import os
from pathlib import Path

import yaml

from ..files import write_text
from .arguments import RecipeArguments


DATA_FILE = "datasets.yaml"


def write_data_file(args: RecipeArguments, folder: Path) -> Path | None:
    """Writes data sets and metrics of a recipe as `trl-tar verify` and `trl-tar red-team` take them with `--datasets`.

    Args:
        args ([`RecipeArguments`]):
            Arguments of the recipe, whose files are looked for in the working directory.
        folder (`Path`):
            Folder of the report.

    Returns:
        `Path`: the file; `None` for a task that comes with the package, which its report names.
    """
    if args.world is not None:
        return None
    described = {
        "folder": os.path.relpath(Path.cwd(), folder),
        "datasets": args.data,
        "metrics": args.metrics,
        "benign": args.benign,
        "chance": args.chance,
        "chat": args.chat,
    }
    given = {name: value for name, value in described.items() if value is not None}
    write_text(folder / DATA_FILE, yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
    return folder / DATA_FILE
