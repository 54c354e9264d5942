"""Every answer to every question, before and after each attack: the side file of a report."""

import gzip
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .evaluation.scores import Scores


QUESTIONS_FILE = "questions.json.gz"
QUESTIONS_VERSION = 1
DIGITS = 4
ByMetric = dict[str, list[float | None]]


@dataclass(frozen=True)
class Questions:
    """One score a question, rounded to four digits; `None` is not a number.

    Args:
        groups (`dict[str, list[str]]`):
            Metric → cluster of each question, such as the entity that it asks about.
        before (`dict[str, dict[str, list[float]]]`):
            `"model"`, `"base"`, `"twin"` or `"floor"` → metric → score of each question before any attack.
        after (`dict[str, dict[str, dict[str, list[float]]]]`):
            The same role → `"adversary/seed"` → metric → score of each question at the last evaluation.
    """

    groups: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, ByMetric] = field(default_factory=dict)
    after: dict[str, dict[str, ByMetric]] = field(default_factory=dict)

    def save(self, folder: str | Path) -> Path:
        """Writes `questions.json.gz` into the folder, in one piece; the same content has the same bytes."""
        file = Path(folder) / QUESTIONS_FILE
        text = json.dumps({"version": QUESTIONS_VERSION, **asdict(self)}, sort_keys=True, allow_nan=False)
        unfinished = file.with_name(f".{file.name}.{os.getpid()}")
        unfinished.write_bytes(gzip.compress(text.encode(), mtime=0))
        os.replace(unfinished, file)
        return file

    @classmethod
    def load(cls, folder: str | Path) -> "Questions":
        """Reads what [`Questions.save`] wrote, from the file or its folder; `ValueError` for another or a damaged file."""
        file = Path(folder) / QUESTIONS_FILE if Path(folder).is_dir() else Path(folder)
        remedy = f"Give the {QUESTIONS_FILE} of a red team."
        if not file.is_file():
            raise ValueError(f"{str(folder)!r} holds no answers to questions. {remedy}")
        try:
            content = json.loads(gzip.decompress(file.read_bytes()))
            version = content.pop("version")
            questions = cls(**content)
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(file)!r} is damaged ({type(error).__name__}: {error}). {remedy}") from error
        if version != QUESTIONS_VERSION:
            raise ValueError(
                f"{str(file)!r} has version {version!r}, and this trl_tar reads {QUESTIONS_VERSION}. {remedy}"
            )
        return questions


def rounded(scores: Mapping[str, Scores]) -> ByMetric:
    """Scores of each metric as the side file keeps them."""
    return {
        name: [round(value, DIGITS) if value == value else None for value in each.values]
        for name, each in scores.items()
    }


def groups_of(scores: Mapping[str, Scores]) -> dict[str, list[str]]:
    """Cluster of each question of each metric; its number where the metric names none."""
    return {
        name: [str(i) for i in range(len(each.values))] if each.groups is None else list(map(str, each.groups))
        for name, each in scores.items()
    }
