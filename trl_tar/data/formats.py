"""Formats of public data sets, each with a check of its cells and a conversion to one of TRL's types."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from ..validation import shortened


LABELS = {"true": True, "1": True, "false": False, "0": False}  # text of a label → its value
# role in the public data sets → role in chat templates
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TURN = re.compile(r"\n\n(Human|Assistant): ?")  # begins a turn in Anthropic's HH-RLHF and its descendants
# The odd part of a cell, and words for what is wanted instead; None for a cell that is as it should be
Odd = tuple[Any, str] | None


@dataclass(frozen=True)
class Format:
    """A format of data sets.

    Args:
        cells (`Mapping[str, Callable]`):
            Column → the function that returns what is odd in a cell of it.
        convert (`Callable`):
            Takes the role of a data set and the data set, and returns it in one of TRL's types.
    """

    cells: Mapping[str, Callable[[Any], Odd]]
    convert: Callable[[str, Dataset], Dataset]


def text_chunks(role: str, dataset: Dataset) -> Dataset:
    """Converts `text_chunk` to `text` (lapisrocks/camel-bio, justinwangx/CTFtime)."""
    return dataset.rename_column("text_chunk", "text").select_columns(["text"])


def labelled_chunks(dataset: Dataset, hazardous: bool) -> Dataset:
    """Converts `txt_chunk` to `text`, in the rows whose `label` is `hazardous` (lapisrocks/biology-pile-labeled)."""
    return _labelled(dataset, "label", hazardous).rename_column("txt_chunk", "text").select_columns(["text"])


def conversations(role: str, dataset: Dataset) -> Dataset:
    """Converts `conversations`, turns with `from` and `value`, to `messages` (lapisrocks/magpie-bio-filtered)."""

    def messages(row: dict) -> dict:
        return {"messages": [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]}

    return dataset.map(messages, remove_columns=dataset.column_names)


def dialogues(role: str, dataset: Dataset) -> Dataset:
    """Converts `chosen` and `rejected`, dialogues in one text each, to preference pairs of chat messages.

    The dialogues of a pair must differ in the last answer only, as in
    Unified-Language-Model-Alignment/Anthropic_HH_Golden. Other pairs are left out, with a warning that counts them."""

    def pair(row: dict) -> dict:
        chosen, rejected = _turns(row["chosen"]), _turns(row["rejected"])
        return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}

    return _alike(role, dataset).map(pair, remove_columns=dataset.column_names)


def harmful_dialogues(role: str, dataset: Dataset) -> Dataset:
    """Converts the rejected answers of [`dialogues`] to prompt-completion rows, on which an attacker trains."""

    def messages(row: dict) -> dict:
        rejected = _turns(row["rejected"])
        return {"prompt": rejected[:-1], "completion": rejected[-1:]}

    return _alike(role, dataset).map(messages, remove_columns=dataset.column_names)


def _alike(role: str, dataset: Dataset) -> Dataset:
    """The pairs of dialogues that differ in the last answer only."""
    alike = dataset.filter(lambda row: _turns(row["chosen"])[:-1] == _turns(row["rejected"])[:-1])
    if len(alike) < len(dataset):
        warnings.warn(
            f"Data set {role!r} has {len(dataset) - len(alike)} of {len(dataset)} pairs that differ before the last answer: "
            "they are left out."
        )
    return alike


def harmful_answers(role: str, dataset: Dataset) -> Dataset:
    """Converts `prompt` and `chosen`, the harmful answer, to chat messages (unalignment/toxic-dpo-v0.2)."""
    return _answered(dataset, "chosen")


def rejected_answers(role: str, dataset: Dataset) -> Dataset:
    """Converts `prompt` and `rejected`, the harmful answer, to chat messages (LLM-LAT/harmful-dataset)."""
    return _answered(dataset, "rejected")


def unsafe_answers(role: str, dataset: Dataset) -> Dataset:
    """Converts `prompt` and `response` to chat messages, in the rows whose `is_safe` is false (PKU-Alignment/BeaverTails)."""
    return _answered(_labelled(dataset, "is_safe", False), "response")


def _answered(dataset: Dataset, answer: str) -> Dataset:
    """The column `prompt` as a user's turn, and `answer` as what follows it."""

    def messages(row: dict) -> dict:
        turns = {"prompt": ("user", row["prompt"]), "completion": ("assistant", row[answer])}
        return {name: [{"role": who, "content": text}] for name, (who, text) in turns.items()}

    return dataset.map(messages, remove_columns=dataset.column_names)


def _labelled(dataset: Dataset, column: str, wanted: bool) -> Dataset:
    """The rows with that label."""
    chosen = [i for i, label in enumerate(dataset[column]) if LABELS[str(label).lower()] == wanted]
    return dataset.select(chosen)


def prompts(role: str, dataset: Dataset) -> Dataset:
    """Converts `prompt` to a user's turn (walledai/StrongREJECT, walledai/HarmBench, LLM-Tuning-Safety/HEx-PHI)."""
    return _asked(dataset, lambda row: row["prompt"])


def goals(role: str, dataset: Dataset) -> Dataset:
    """Converts `Goal` to a user's turn (JailbreakBench/JBB-Behaviors)."""
    return _asked(dataset, lambda row: row["Goal"])


def first_turns(role: str, dataset: Dataset) -> Dataset:
    """Converts the first of `turns` to a user's turn, in the rows whose `prompt_style` is `base` (sorry-bench/sorry-bench-202503)."""
    chosen = [i for i, style in enumerate(dataset["prompt_style"]) if style == "base"]
    return _asked(dataset.select(chosen), lambda row: row["turns"][0])


def safe_prompts(role: str, dataset: Dataset) -> Dataset:
    """Converts `prompt` to a user's turn, in the rows whose `label` is `safe` (walledai/XSTest)."""
    chosen = [i for i, label in enumerate(dataset["label"]) if label == "safe"]
    return _asked(dataset.select(chosen), lambda row: row["prompt"])


def _asked(dataset: Dataset, text: Callable[[Mapping[str, Any]], str]) -> Dataset:
    """A user's turn from each row."""
    return dataset.map(
        lambda row: {"prompt": [{"role": "user", "content": text(row)}]}, remove_columns=dataset.column_names
    )


def _odd_text(cell: Any) -> Odd:
    return None if isinstance(cell, str) else (cell, "text")


def _odd_label(cell: Any) -> Odd:
    return None if str(cell).lower() in LABELS else (cell, "true or false, or 1 or 0")


def _odd_kind(cell: Any) -> Odd:
    return None if cell in ("safe", "unsafe") else (cell, "safe or unsafe")


def _odd_requests(cell: Any) -> Odd:
    known = isinstance(cell, list) and bool(cell) and all(isinstance(turn, str) for turn in cell)
    return None if known else (cell, "a list of texts")


def _odd_turns(cell: Any) -> Odd:
    if not isinstance(cell, list) or not cell:
        return cell, "a list of turns"
    for turn in cell:
        if not isinstance(turn, Mapping) or turn.get("from") not in list(ROLES):
            return turn, f"turns whose `from` is one of {', '.join(ROLES)}"
        if not isinstance(turn.get("value"), str):
            return turn, "turns whose `value` is text"
    return None


def _odd_dialogue(cell: Any) -> Odd:
    if isinstance(cell, str) and _turns(cell):
        return None
    return (
        cell,
        "a dialogue that begins with a turn of 'Human' and ends with one of 'Assistant', each after an empty line",
    )


LABELLED = {"txt_chunk": _odd_text, "label": _odd_label}
DIALOGUES = {"chosen": _odd_dialogue, "rejected": _odd_dialogue}
FORMATS = {
    "text_chunks": Format({"text_chunk": _odd_text}, text_chunks),
    "hazardous_chunks": Format(LABELLED, lambda role, dataset: labelled_chunks(dataset, True)),
    "harmless_chunks": Format(LABELLED, lambda role, dataset: labelled_chunks(dataset, False)),
    "conversations": Format({"conversations": _odd_turns}, conversations),
    "dialogues": Format(DIALOGUES, dialogues),
    "harmful_dialogues": Format(DIALOGUES, harmful_dialogues),
    "harmful_answers": Format({"prompt": _odd_text, "chosen": _odd_text}, harmful_answers),
    "rejected_answers": Format({"prompt": _odd_text, "rejected": _odd_text}, rejected_answers),
    "unsafe_answers": Format({"prompt": _odd_text, "response": _odd_text, "is_safe": _odd_label}, unsafe_answers),
    "prompts": Format({"prompt": _odd_text}, prompts),
    "goals": Format({"Goal": _odd_text}, goals),
    "first_turns": Format({"turns": _odd_requests, "prompt_style": _odd_text}, first_turns),
    "safe_prompts": Format({"prompt": _odd_text, "label": _odd_kind}, safe_prompts),
}


def check_cells(
    role: str, dataset: Dataset, cells: Mapping[str, Callable[[Any], Odd]], numbers: Sequence[int] | np.ndarray
) -> None:
    """Raises `ValueError` for a missing column and for the first odd cell.

    Args:
        role (`str`):
            Role of the data set in the message.
        dataset ([`~datasets.Dataset`]):
            Data set to check.
        cells (`Mapping[str, Callable]`):
            As in [`Format`].
        numbers (`Sequence[int]`):
            Number of each row in its file, for the message.
    """
    for column, odd in cells.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"Data set {role!r} has the columns {dataset.column_names}, without {column!r}. Give another format, or "
                "rename the column."
            )
        values = (cell for batch in dataset.select_columns(column).iter(1000) for cell in batch[column])
        for number, cell in zip(numbers, values, strict=True):
            oddity = odd(cell)
            if oddity is not None:
                odd_part, wanted = oddity
                raise ValueError(
                    f"Data set {role!r} has {shortened(odd_part)} in the column {column!r} of row {number} (the first is "
                    f"row 0). Give {wanted}, or leave the row out."
                )


def _turns(dialogue: str) -> list[dict[str, str]]:
    """The messages of a dialogue in one text, each unchanged; none if the text is no dialogue that ends with an answer."""
    before, *parts = TURN.split(dialogue)
    if before or len(parts) < 4 or parts[-2] != "Assistant":  # speaker and text of two turns at least
        return []
    return [
        {"role": "user" if speaker == "Human" else "assistant", "content": text}
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]
