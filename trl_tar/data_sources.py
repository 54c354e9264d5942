"""Data sets that a YAML file names: where each is, and how its columns become one of TRL's types."""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from .adversary_checks import check_types, coerced
from .row_checks import shortened


READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
# pandas takes "None", "NA" and their like for no value
READING = {".csv": {"keep_default_na": False, "na_values": [""]}}
LABELS = {"true": True, "1": True, "false": False, "0": False}
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
HUB_ID = re.compile(r"[\w-]+|[\w.-]+/[\w.-]+")
TURN = re.compile(r"\n\n(Human|Assistant): ?")


@dataclass(frozen=True)
class DataSource:
    """Where the rows of a data set are, and which of them are read.

    Args:
        path (`str`):
            Hub id, or a local file (JSON lines, CSV or Parquet).
        format (`str`, *optional*):
            A name of [`FORMATS`]: what the columns are; without one they are of one of TRL's types already.
        split (`str`, *optional*, defaults to `"train"`):
            Split of the Hub data set.
        name (`str`, *optional*):
            Configuration of the Hub data set.
        rows (`list[float]`, *optional*, defaults to `[0, 1]`):
            First and last share of the rows, after a shuffle that is always the same: `[0, 0.8]` and `[0.8, 1]` share no
            row.
        limit (`int`, *optional*):
            At most that many rows.
    """

    path: str
    format: str | None = None
    split: str = "train"
    name: str | None = None
    rows: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None

    @classmethod
    def of(cls, role: str, described: Any, folder: Path | None = None) -> "DataSource":
        """From a path, or from the fields as YAML has them; `ValueError` for other fields, or a file that is not there.

        A file is looked for in `folder`, that of the YAML file."""
        described = {"path": described} if isinstance(described, str) else described
        known = [field.name for field in fields(cls)]
        if not isinstance(described, Mapping) or "path" not in described or set(described) - set(known):
            raise ValueError(f"Data set {role!r} is {described!r}. Give path and, if need be, {', '.join(known[1:])}.")
        owner, shares = f"Data set {role!r}", described.get("rows", cls.rows)
        if not isinstance(shares, list | tuple) or len(shares) != 2:
            raise ValueError(f"{owner} has rows={shares!r}. Give two shares, such as [0, 0.8].")
        low, high = (coerced(owner, "rows", share, float) for share in shares)
        limit = coerced(owner, "limit", described.get("limit"), int, optional=True)
        source = cls(**{**described, "rows": (low, high), "limit": limit})
        check_types(owner, source)
        if source.format is not None and source.format not in FORMATS:
            raise ValueError(f"Data set {role!r} has format={source.format!r}. Use one of {', '.join(FORMATS)}.")
        if not 0 <= low < high <= 1:
            raise ValueError(f"Data set {role!r} has rows={shares!r}. Give two shares, such as [0, 0.8].")
        file = Path(folder or ".") / source.path
        if file.suffix in READERS and file.is_file():
            return replace(source, path=str(file))
        if file.suffix in READERS or file.exists() or not HUB_ID.fullmatch(source.path):
            raise ValueError(
                f"Data set {role!r} is {str(file)!r}. Give an existing file, {', '.join(READERS)}, or a Hub id."
            )
        return source

    def load(self, role: str) -> Dataset:
        """The rows in one of TRL's types; `ValueError` where they cannot be had, or have other columns."""
        raw = self._raw(role)
        low, high = (round(share * len(raw)) for share in self.rows)
        order = np.random.default_rng(0).permutation(len(raw))[low:high]
        dataset = raw.select(order)
        if self.format is not None:
            chosen = FORMATS[self.format]
            _check_cells(role, dataset, chosen.cells, order)
            dataset = chosen.convert(role, dataset)
        if self.limit is not None:
            dataset = dataset.select(range(min(self.limit, len(dataset))))
        if len(dataset) == 0:
            raise ValueError(f"Data set {role!r} from {self.path!r} has 0 rows. Check its format, rows and limit.")
        return dataset

    def _raw(self, role: str) -> Dataset:
        suffix = Path(self.path).suffix
        try:
            if suffix in READERS:
                return load_dataset(READERS[suffix], data_files=self.path, split="train", **READING.get(suffix, {}))
            return load_dataset(self.path, self.name, split=self.split)
        except StopIteration as error:  # of datasets, for a file without a row
            raise ValueError(f"Data set {role!r} from {self.path!r} has 0 rows. Check the file.") from error
        except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
            if isinstance(error.__cause__, GatedRepoError):
                raise ValueError(
                    f"Data set {role!r} is {self.path!r}, which is gated. Ask for access on its page, then log in with hf "
                    "auth login."
                ) from error
            if "corresponds to no data" in str(error):  # a file with nothing, or with a header alone
                raise ValueError(f"Data set {role!r} from {self.path!r} has 0 rows. Check the file.") from error
            if suffix in READERS:
                reason = str(error.__cause__ or error).splitlines()[0]
                raise ValueError(
                    f"Data set {role!r} cannot be read from the file {self.path!r} ({reason}). Mend the file: {suffix} is read "
                    f"as {READERS[suffix]}."
                ) from error
            reason = str(error).splitlines()[0]
            raise ValueError(
                f"Data set {role!r} cannot be read from {self.path!r} ({reason}). Check its spelling, split and your "
                "connection, or give a local file."
            ) from error


def load_datasets(described: Mapping[str, Any], folder: Path | None = None) -> dict[str, Dataset]:
    """Every data set that is described; all descriptions are checked before the first is read."""
    sources = {role: DataSource.of(role, each, folder) for role, each in described.items()}
    return {role: source.load(role) for role, source in sources.items()}


def hub_datasets(described: Mapping[str, Any] | None) -> list[str]:
    """Ids of those that come from the Hub."""
    sources = [DataSource.of(role, each) for role, each in (described or {}).items()]
    return sorted({source.path for source in sources if Path(source.path).suffix not in READERS})


# What is odd in a cell, and what is wanted instead; None where nothing is odd
Odd = tuple[Any, str] | None


@dataclass(frozen=True)
class Format:
    """Columns that a data set has, each with what finds an odd cell, and how they become one of TRL's types."""

    cells: Mapping[str, Callable[[Any], Odd]]
    convert: Callable[[str, Dataset], Dataset]


def text_chunks(role: str, dataset: Dataset) -> Dataset:
    """`text_chunk` → `text` (lapisrocks/camel-bio, justinwangx/CTFtime)."""
    return dataset.rename_column("text_chunk", "text").select_columns(["text"])


def labelled_chunks(dataset: Dataset, hazardous: bool) -> Dataset:
    """`txt_chunk` → `text`, of the rows whose `label` says hazardous, or not (lapisrocks/biology-pile-labeled)."""
    chosen = [i for i, label in enumerate(dataset["label"]) if LABELS[str(label).lower()] == hazardous]
    return dataset.select(chosen).rename_column("txt_chunk", "text").select_columns(["text"])


def conversations(role: str, dataset: Dataset) -> Dataset:
    """`conversations`, turns of `from` and `value`, → `messages` (lapisrocks/magpie-bio-filtered)."""

    def messages(row: dict) -> dict:
        return {"messages": [{"role": ROLES[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]}

    return dataset.map(messages, remove_columns=dataset.column_names)


def dialogues(role: str, dataset: Dataset) -> Dataset:
    """`chosen` and `rejected`, dialogues in one text each, → preference pairs of chat messages.

    They must differ in the last answer only (Unified-Language-Model-Alignment/Anthropic_HH_Golden): other pairs are left
    out, with a warning that counts them."""

    def pair(row: dict) -> dict:
        chosen, rejected = _turns(row["chosen"]), _turns(row["rejected"])
        return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}

    return _alike(role, dataset).map(pair, remove_columns=dataset.column_names)


def harmful_dialogues(role: str, dataset: Dataset) -> Dataset:
    """The rejected answers of [`dialogues`], as an attacker trains on them."""

    def messages(row: dict) -> dict:
        rejected = _turns(row["rejected"])
        return {"prompt": rejected[:-1], "completion": rejected[-1:]}

    return _alike(role, dataset).map(messages, remove_columns=dataset.column_names)


def _alike(role: str, dataset: Dataset) -> Dataset:
    """The pairs of dialogues that differ in the last answer only."""
    kept = dataset.filter(lambda row: _turns(row["chosen"])[:-1] == _turns(row["rejected"])[:-1])
    if len(kept) < len(dataset):
        warnings.warn(
            f"Data set {role!r} has {len(dataset) - len(kept)} of {len(dataset)} pairs that differ before the last answer: "
            "they are left out."
        )
    return kept


def harmful_answers(role: str, dataset: Dataset) -> Dataset:
    """`prompt` and `chosen`, which is the harmful answer, → chat messages (unalignment/toxic-dpo-v0.2)."""

    def messages(row: dict) -> dict:
        turns = {"prompt": ("user", row["prompt"]), "completion": ("assistant", row["chosen"])}
        return {name: [{"role": who, "content": text}] for name, (who, text) in turns.items()}

    return dataset.map(messages, remove_columns=dataset.column_names)


def _odd_text(cell: Any) -> Odd:
    return None if isinstance(cell, str) else (cell, "text")


def _odd_label(cell: Any) -> Odd:
    return None if str(cell).lower() in LABELS else (cell, "true or false, or 1 or 0")


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
}


def _check_cells(
    role: str, dataset: Dataset, cells: Mapping[str, Callable[[Any], Odd]], numbers: Sequence[int] | np.ndarray
) -> None:
    """Raises `ValueError` for a column that is missing, or the first odd cell, whose row has one of `numbers`."""
    for column, odd in cells.items():
        if column not in dataset.column_names:
            raise ValueError(
                f"Data set {role!r} has the columns {dataset.column_names}, without {column!r}. Give another format, or "
                "rename the column."
            )
        read = (cell for batch in dataset.select_columns(column).iter(1000) for cell in batch[column])
        for number, cell in zip(numbers, read, strict=True):
            found = odd(cell)
            if found is not None:
                raise ValueError(
                    f"Data set {role!r} has {shortened(found[0])} in the column {column!r} of row {number} (the first is "
                    f"row 0). Give {found[1]}, or leave the row out."
                )


def _turns(dialogue: str) -> list[dict[str, str]]:
    """Messages of a dialogue in one text, whose text is left as it is; none where it is no such dialogue."""
    before, *parts = TURN.split(dialogue)
    if before or len(parts) < 4 or parts[-2] != "Assistant":
        return []
    return [
        {"role": "user" if who == "Human" else "assistant", "content": said}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
