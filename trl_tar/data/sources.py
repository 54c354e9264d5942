"""Data sets that a YAML file names: where each is, and how its columns become one of TRL's types."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from ..validation import check_types, coerced
from .formats import FORMATS, check_cells


READERS = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
# pandas takes "None", "NA" and their like for no value
READING = {".csv": {"keep_default_na": False, "na_values": [""]}}
HUB_ID = re.compile(r"[\w-]+|[\w.-]+/[\w.-]+")


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
            check_cells(role, dataset, chosen.cells, order)
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
