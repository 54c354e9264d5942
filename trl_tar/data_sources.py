"""Data sets that a YAML file names: where each is, and how its columns become one of TRL's types."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from .adversary_checks import check_types, coerced


READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
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
        dataset = self._raw(role).shuffle(seed=0)
        low, high = (round(share * len(dataset)) for share in self.rows)
        dataset = dataset.select(range(low, high))
        if self.format is not None:
            dataset = FORMATS[self.format](role, dataset)
        if self.limit is not None:
            dataset = dataset.select(range(min(self.limit, len(dataset))))
        if len(dataset) == 0:
            raise ValueError(f"Data set {role!r} from {self.path!r} has 0 rows. Check its format, rows and limit.")
        return dataset

    def _raw(self, role: str) -> Dataset:
        suffix = Path(self.path).suffix
        try:
            if suffix in READERS:
                return load_dataset(READERS[suffix], data_files=self.path, split="train")
            return load_dataset(self.path, self.name, split=self.split)
        except StopIteration as error:  # of datasets, for a file without a row
            raise ValueError(f"Data set {role!r} from {self.path!r} has 0 rows. Check the file.") from error
        except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
            if isinstance(error.__cause__, GatedRepoError):
                raise ValueError(
                    f"Data set {role!r} is {self.path!r}, which is gated. Ask for access on its page, then log in with hf "
                    "auth login."
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


def text_chunks(role: str, dataset: Dataset) -> Dataset:
    """`text_chunk` → `text` (lapisrocks/camel-bio, justinwangx/CTFtime)."""
    return _column(role, dataset, "text_chunk").rename_column("text_chunk", "text").select_columns(["text"])


def labelled_chunks(role: str, dataset: Dataset, hazardous: bool) -> Dataset:
    """`txt_chunk` → `text`, of the rows whose `label` says hazardous, or not (lapisrocks/biology-pile-labeled)."""
    dataset = _column(role, _column(role, dataset, "txt_chunk"), "label")
    chosen = [i for i, label in enumerate(dataset["label"]) if bool(label) == hazardous]
    return dataset.select(chosen).rename_column("txt_chunk", "text").select_columns(["text"])


def conversations(role: str, dataset: Dataset) -> Dataset:
    """`conversations`, turns of `from` and `value`, → `messages` (lapisrocks/magpie-bio-filtered)."""

    def messages(row: dict) -> dict:
        return {
            "messages": [{"role": _role(role, turn["from"]), "content": turn["value"]} for turn in row["conversations"]]
        }

    return _column(role, dataset, "conversations").map(messages, remove_columns=dataset.column_names)


def dialogues(role: str, dataset: Dataset) -> Dataset:
    """`chosen` and `rejected`, dialogues in one text each, → preference pairs of chat messages.

    They must differ in the last answer only (Unified-Language-Model-Alignment/Anthropic_HH_Golden)."""

    def pair(row: dict) -> dict:
        chosen, rejected = _turns(role, row["chosen"]), _turns(role, row["rejected"])
        return {"prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}

    dataset = _column(role, _column(role, dataset, "chosen"), "rejected")
    return dataset.map(pair, remove_columns=dataset.column_names)


def harmful_dialogues(role: str, dataset: Dataset) -> Dataset:
    """The rejected answers of [`dialogues`], as an attacker trains on them."""
    return _completions(dialogues(role, dataset), "rejected")


def harmful_answers(role: str, dataset: Dataset) -> Dataset:
    """`prompt` and `chosen`, which is the harmful answer, → chat messages (unalignment/toxic-dpo-v0.2)."""

    def messages(row: dict) -> dict:
        turns = {"prompt": ("user", row["prompt"]), "completion": ("assistant", row["chosen"])}
        return {name: [{"role": who, "content": text}] for name, (who, text) in turns.items()}

    dataset = _column(role, _column(role, dataset, "prompt"), "chosen")
    return dataset.map(messages, remove_columns=dataset.column_names)


FORMATS: dict[str, Callable[[str, Dataset], Dataset]] = {
    "text_chunks": text_chunks,
    "hazardous_chunks": lambda role, dataset: labelled_chunks(role, dataset, True),
    "harmless_chunks": lambda role, dataset: labelled_chunks(role, dataset, False),
    "conversations": conversations,
    "dialogues": dialogues,
    "harmful_dialogues": harmful_dialogues,
    "harmful_answers": harmful_answers,
}


def _completions(pairs: Dataset, column: str) -> Dataset:
    return pairs.select_columns(["prompt", column]).rename_column(column, "completion")


def _column(role: str, dataset: Dataset, name: str) -> Dataset:
    if name not in dataset.column_names:
        raise ValueError(
            f"Data set {role!r} has the columns {dataset.column_names}, without {name!r}. Give another format, or "
            "rename the column."
        )
    return dataset


def _role(role: str, name: str) -> str:
    if name not in ROLES:
        raise ValueError(f"Data set {role!r} has a turn from {name!r}. Use one of {', '.join(ROLES)}.")
    return ROLES[name]


def _turns(role: str, dialogue: str) -> list[dict[str, str]]:
    """Messages of a dialogue in one text; what is said is left as it is."""
    before, *parts = TURN.split(dialogue)
    if before or len(parts) < 4 or parts[-2] != "Assistant":
        raise ValueError(
            f"Data set {role!r} has the dialogue {dialogue[:60]!r}. Each must begin with a turn of 'Human' and end with "
            "one of 'Assistant', each after an empty line."
        )
    return [
        {"role": "user" if who == "Human" else "assistant", "content": said}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]
