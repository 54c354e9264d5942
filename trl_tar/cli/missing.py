"""One sentence on a folder that is not there, before anything heavy is imported."""

import re
from pathlib import Path


# no id of a repository: those are NAME or OWNER/NAME
LOCAL = re.compile(r"[.~/\\].*|.*[/\\]|.*[/\\].*[/\\].*|.*\.json")
REPORT = "report.json"


def check_model_is_there(model: str | None) -> None:
    """Raises `ValueError` for what looks like a path and leads nowhere; anything else may be a repository of the Hub."""
    if model is not None and LOCAL.fullmatch(model) and not Path(model).exists():
        raise ValueError(f"{model!r} is neither a folder nor a repository of the Hub. Check its spelling.")


def check_folder_is_there(folder: Path) -> None:
    """Raises `ValueError` where there is no folder of a model."""
    if not folder.is_dir():
        raise ValueError(f"There is no folder {str(folder)!r}. Give that of a model.")


def check_report_is_there(path: Path) -> None:
    """Raises `ValueError` where there is no report in a folder, or no such file; names a folder below it that has one."""
    file = path / REPORT if path.is_dir() else path
    if file.is_file():
        return
    # a run has that of its last phase one folder below, and the demo has several
    below = next((found.parent for found in sorted(path.glob(f"*/{REPORT}"))), None)
    remedy = (
        f"Give the {REPORT} of a red team, or its folder" if below is None else f"{str(below)!r} has one: give that"
    )
    raise ValueError(f"{str(file)!r} holds no report: there is no such file. {remedy}.")
