"""The side file of a report: every answer to every question, before and after each attack."""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..evaluation.scores import Scores
from ..files import finite, new_file


QUESTIONS_FILE = "questions.json.gz"
QUESTIONS_VERSION = 1
MOST_BYTES = 2**29  # unpacked, a choice: a file of a few MiB can hold thousands of times as much
DIGITS = 4  # decimal places of a score, a choice: the side file holds every answer, and should stay small
DEPTHS = {"groups": 1, "before": 2, "after": 3}  # field → levels of names above a list
ByMetric = dict[str, list[float | None]]


@dataclass(frozen=True)
class Questions:
    """Holds one score for each question, rounded to four digits; `None` where it is not finite.

    Args:
        groups (`dict[str, list[str]]`):
            Metric → cluster of each question, such as the entity that it asks about.
        before (`dict[str, dict[str, list[float]]]`):
            `"model"`, `"base"`, `"twin"` or `"floor"` → metric → score of each question before any attack.
        after (`dict[str, dict[str, dict[str, list[float]]]]`):
            The same role → `"adversary/seed"` → metric → score of each question at the last evaluation; no metric for
            an attack that failed.
    """

    groups: dict[str, list[str]] = field(default_factory=dict)
    before: dict[str, ByMetric] = field(default_factory=dict)
    after: dict[str, dict[str, ByMetric]] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Writes a file, or `questions.json.gz` into an existing folder, in one piece; the same content has the same bytes."""
        file = _file(path)
        text = json.dumps({"version": QUESTIONS_VERSION, **asdict(self)}, sort_keys=True, allow_nan=False)
        with new_file(file) as unfinished:
            unfinished.write_bytes(gzip.compress(text.encode(), mtime=0))
        return file

    @classmethod
    def load(cls, path: str | Path) -> "Questions":
        """Reads what [`Questions.save`] wrote, from the file or its folder; `ValueError` for another or a damaged file."""
        file = _file(path)
        remedy = f"Give the {QUESTIONS_FILE} of a red team."
        if not file.is_file():
            raise ValueError(f"{str(path)!r} holds no answers to questions. {remedy}")
        try:
            with gzip.open(file) as packed:
                text = packed.read(MOST_BYTES + 1)
            if len(text) > MOST_BYTES:
                raise ValueError(f"more than {MOST_BYTES // 2**20} MiB")
            content = json.loads(text)
            version = content.pop("version")
            questions = cls(**content)
        except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{str(file)!r} is damaged ({type(error).__name__}: {error}). {remedy}") from error
        if version != QUESTIONS_VERSION:
            raise ValueError(
                f"{str(file)!r} has version {version!r}, and this trl_tar reads {QUESTIONS_VERSION}. {remedy}"
            )
        wrong = next((name for name, depth in DEPTHS.items() if not _is_nested(getattr(questions, name), depth)), None)
        if wrong is not None:
            raise ValueError(f"{str(file)!r} is damaged ({wrong!r} is not lists by name). {remedy}")
        return questions


def _file(path: str | Path) -> Path:
    return Path(path) / QUESTIONS_FILE if Path(path).is_dir() else Path(path)


def _is_nested(content: object, depth: int) -> bool:
    """Returns whether the content is lists under `depth` levels of dictionaries."""
    if depth == 0:
        return isinstance(content, list)
    return isinstance(content, dict) and all(_is_nested(value, depth - 1) for value in content.values())


def rounded(scores: Mapping[str, Scores]) -> ByMetric:
    """Returns the scores of each metric as the side file holds them, with `None` for NaN and infinity, which JSON lacks."""
    return {
        name: [None if finite(value) is None else round(value, DIGITS) for value in metric_scores.values]
        for name, metric_scores in scores.items()
    }


def groups_of(scores: Mapping[str, Scores]) -> dict[str, list[str]]:
    """Returns the cluster of each question of each metric; without clusters each question has its own, by its number."""
    return {
        name: [str(i) for i in range(len(metric_scores.values))]
        if metric_scores.groups is None
        else list(map(str, metric_scores.groups))
        for name, metric_scores in scores.items()
    }
