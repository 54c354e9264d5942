"""`trl-tar report`: the pages of a report that is already there."""

from pathlib import Path

from ..report.report import Report
from ..views.page import write_pages
from ..views.terminal import print_report


def report(folder: Path) -> Report:
    """Reads `report.json` and writes `report.html` and `SUMMARY.md` next to it.

    Args:
        folder (`Path`):
            With a `report.json`, or that file.

    Raises:
        `ValueError`: if there is no report, or one that cannot be read.
    """
    loaded = Report.load(folder)
    place = folder if folder.is_dir() else folder.parent
    title = loaded.config.get("card", {}).get("title")  # of a report that was published or that a recipe made
    write_pages(loaded, place, title or loaded.model["id"] or place.resolve().name)  # a model in memory has no name
    print_report(loaded, place)
    return loaded
