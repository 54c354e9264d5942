"""Overlap of data sets and questions, word for word. It is reported for real data, whose entities are not known."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from datasets import Dataset

from ..evaluation.scores import DescribedMetric


N = 13  # words, the length at which the GPT-3 paper counts overlap (https://huggingface.co/papers/2005.14165)
QUESTIONS = "questions of "  # before the name of a metric, in a table of shares
TEXT_COLUMNS = ("prompt", "completion", "chosen", "rejected", "messages", "conversations", "text")

Words = tuple[str, ...]


def contamination(
    asked: Mapping[str, Iterable[str]], seen: Mapping[str, Iterable[str]], n: int = N
) -> dict[str, dict[str, float]]:
    """Computes the share of each set's rows that have `n` consecutive words in common with what was seen.

    Words are compared in lower case, without punctuation. A row of fewer than `n` words counts if it occurs as a whole. What all
    rows of a set of questions or attacks begin with, such as a system prompt, does not count.
    Memory grows with `asked` alone.

    Args:
        asked (`dict[str, Iterable[str]]`):
            Name → rows that should be new, such as questions. Sets without rows are left out.
        seen (`dict[str, Iterable[str]]`):
            Name → rows, such as of training data.
        n (`int`, *optional*, defaults to `13`):
            Number of consecutive words that count as overlap.

    Returns:
        `dict[str, dict[str, float]]`: name in `asked` → name in `seen`, other than its own → share in [0, 1].
    """
    runs = {
        name: [_runs(row, n) for row in _without_beginning([_words(r) for r in rows])] for name, rows in asked.items()
    }
    wanted = {run for rows in runs.values() for row in rows for run in row}
    lengths = {len(run) for run in wanted}
    table: dict[str, dict[str, float]] = {name: {} for name, rows in runs.items() if rows}
    for other, texts in seen.items():
        found = {run for text in texts for length in lengths for run in _runs(_words(text), length) & wanted}
        for name in table:
            if name != other:
                table[name][other] = sum(not row.isdisjoint(found) for row in runs[name]) / len(runs[name])
    return table


def _words(text: str) -> Words:
    return tuple(re.findall(r"\w+", text.lower()))


def _without_beginning(rows: list[Words]) -> list[Words]:
    """Leaves out what different rows all begin with; nothing where that would be the whole of one."""
    if len(set(rows)) < 2:
        return rows
    shortest = min(map(len, rows))
    common = next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
    return rows if common == shortest else [row[common:] for row in rows]


def _runs(words: Words, n: int) -> set[Words]:
    return {words[i : i + n] for i in range(max(len(words) - n, 0) + 1)} - {()}


def rows_of(dataset: Dataset) -> Iterator[str]:
    """Yields each row as plain text."""
    for row in dataset:
        yield " ".join(_flat(row[column]) for column in TEXT_COLUMNS if row.get(column) is not None)


def questions_of(metric: Any) -> list[str]:
    """Returns a metric's questions with their answers; none of a function of the user's own, which does not say them."""
    return metric.question_texts() if isinstance(metric, DescribedMetric) else []


def _flat(value: Any) -> str:
    """Returns a text as it is, and messages as their joined contents, without the words of a template."""
    return value if isinstance(value, str) else " ".join(_said(message) for message in value)


def _said(message: Mapping[str, Any]) -> str:
    """Returns the text of a message, `content` or ShareGPT's `value`; of a list of blocks that of all; none of a call of tools."""
    content = message.get("content", message.get("value")) or ""
    return content if isinstance(content, str) else " ".join(block.get("text") or "" for block in content)
