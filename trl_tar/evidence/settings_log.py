"""The settings that were tried: a line for each training that was started, and one for each that ended."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import read_lines


FILE_NAME = "settings.jsonl"


def note(output: Path, **fields: Any) -> None:
    """Appends a line to the log; lines that are there are never changed, so that nothing that was tried can get lost."""
    line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), **fields}
    output.mkdir(parents=True, exist_ok=True)
    with (output / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")


def noted(output: Path) -> list[dict[str, Any]]:
    """Returns the lines of the log, none where nothing was started."""
    return read_lines(output / FILE_NAME, "Settings") if (output / FILE_NAME).is_file() else []


def tried(lines: Sequence[dict[str, Any]]) -> str:
    """Returns the log in words, as markdown: how many settings and trainings there were, and each setting with what differs from
    the recipe."""
    started = [line for line in lines if line["event"] == "started"]
    settings = {line["settings_sha256"]: line for line in started}
    trainings = {(line["settings_sha256"], line["world"], line["seed"]) for line in started}
    worlds = {line["world"] for line in started}
    ended = sum(line["event"] == "finished" for line in lines)
    head = (
        f"Settings tried: {len(settings)}, in {len(trainings)} trainings on {len(worlds)} worlds, of which {ended} finished. "
        f"All that was ever started in this folder is counted, see `{FILE_NAME}`."
    )
    rows = [
        f"- {line['variant']} ({line['passes']:,} passes): {_changes(line['changes'])}" for line in settings.values()
    ]
    return "\n".join([head, "", *rows]) + "\n"


def _changes(changes: dict[str, dict[str, Any]]) -> str:
    parts = [f"{name}={value}" for part in ("arguments", "tar") for name, value in changes[part].items()]
    adversaries = changes["adversaries"]
    if adversaries:
        lengths = sorted({adversary["num_steps"] for adversary in adversaries.values()})
        steps = " or ".join(map(str, lengths))
        parts.append(f"{len(adversaries)} adversaries of its own, {steps} steps")
    return ", ".join(parts) or "the recipe, or adversaries left out"
