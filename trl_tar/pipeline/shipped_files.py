"""The files of `recipes/`, which a checkout has in its folder and an installed package beside it."""

from importlib.metadata import PackageNotFoundError, files
from pathlib import Path


CHECKOUT = Path(__file__).parents[2] / "recipes"


def shipped(path: str) -> str:
    """Returns the file that comes with the package where a path begins with `recipes/` and is not there; else the path itself."""
    if not path.startswith("recipes/") or Path(path).exists():
        return path
    return str(_file(path.removeprefix("recipes/")) or path)


def shipped_config(name: str) -> str:
    """As [`shipped`], also for the name of a configuration alone: `bio` or `bio.yaml`."""
    if Path(name).exists() or Path(name).parent != Path():
        return shipped(name)
    return str(_file(f"configs/{Path(name).stem}.yaml") or name)


def _file(within: str) -> Path | None:
    if (CHECKOUT / within).is_file():
        return CHECKOUT / within
    try:
        installed = files("trl-tar") or []
    except PackageNotFoundError:  # neither a checkout nor installed: a copy of the package's folder
        return None
    ending = f"share/trl_tar/recipes/{within}"
    return next((Path(str(file.locate())) for file in installed if file.as_posix().endswith(ending)), None)
