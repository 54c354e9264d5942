"""Sources of data sets that a YAML file names: where each is, which rows are read, and in which format they are."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from ..files import SURROGATE
from ..validation import check_types, coerced
from .formats import FORMATS, check_cells
from .ready_datasets import READY_DATASETS


READERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".parquet": "parquet",
}  # suffix of a file → builder of `datasets`
# suffix of a file → further arguments: by default pandas reads "None", "NA" and others as no value
READING = {".csv": {"keep_default_na": False, "na_values": [""]}}
# the first half of a character without the second, or the second without the first
HALF = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
# Id of a data set on the Hub: `owner/name`, or a name alone, as the oldest ones have it ("squad"). A name alone has no dot, so that
# a file without its folder is not taken for one.
HUB_DATASET_ID = re.compile(r"[\w-]+|[\w.-]+/[\w.-]+")
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_PAGE = "https://huggingface.co/datasets/"  # begins the address of a data set's page


@dataclass(frozen=True)
class DataSource:
    """The place of a data set's rows, and which of them are read.

    Args:
        path (`str`):
            Hub id, a local file (JSON lines, CSV or Parquet), or a name in [`READY_DATASETS`], whose fields stand where no others
            are given.
        format (`str`, *optional*):
            Name in [`FORMATS`]. Without one the columns are those of one of TRL's types.
        split (`str`, *optional*, defaults to `"train"`):
            Split of the Hub data set.
        name (`str`, *optional*):
            Configuration of the Hub data set.
        rows (`list[float]`, *optional*, defaults to `[0, 1]`):
            Begin and end of the rows that are read, as shares of all, after a shuffle that is always the same: `[0, 0.8]` and
            `[0.8, 1]` share no row.
        limit (`int`, *optional*):
            Most rows of the converted data set.
        revision (`str`, *optional*):
            Commit, branch or tag of the Hub data set; by default what its main branch is when it is read.
        files (`tuple[str, ...]`, *optional*):
            Files of the Hub data set, where it is not one by itself.
        columns (`tuple[str, ...]`, *optional*):
            Names of the columns of CSV without a first line of names.
    """

    path: str
    format: str | None = None
    split: str = "train"
    name: str | None = None
    rows: tuple[float, float] = (0.0, 1.0)
    limit: int | None = None
    revision: str | None = None
    files: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None

    @classmethod
    def of(cls, role: str, described: Any, folder: Path | None = None) -> "DataSource":
        """Builds a source from a path, or from a mapping of its fields.

        Args:
            role (`str`):
                Role of the data set in messages.
            described (`str` or `Mapping`):
                Path, or fields as YAML has them.
            folder (`Path`, *optional*):
                Folder in which a file is looked for: that of the YAML file. By default the working directory.

        Raises:
            `ValueError`: for unknown fields, values out of range, and a file that is not there.
        """
        described = {"path": described} if isinstance(described, str) else described
        known = [field.name for field in fields(cls)]
        if not isinstance(described, Mapping) or "path" not in described or set(described) - set(known):
            raise ValueError(f"Data set {role!r} is {described!r}. Give path and, if need be, {', '.join(known[1:])}.")
        if isinstance(described["path"], str) and described["path"] in READY_DATASETS:
            given = {name: value for name, value in described.items() if name != "path"}
            described = {**READY_DATASETS[described["path"]].source, **given}
        lists = {name: tuple(described[name]) for name in ("files", "columns") if isinstance(described.get(name), list)}
        owner, shares = f"Data set {role!r}", described.get("rows", cls.rows)
        if not isinstance(shares, list | tuple) or len(shares) != 2:
            raise ValueError(f"{owner} has rows={shares!r}. Give two shares, such as [0, 0.8].")
        low, high = (coerced(owner, "rows", share, float) for share in shares)
        limit = coerced(owner, "limit", described.get("limit"), int, optional=True)
        source = cls(**{**described, **lists, "rows": (low, high), "limit": limit})
        check_types(owner, source)
        if source.format is not None and source.format not in FORMATS:
            raise ValueError(f"Data set {role!r} has format={source.format!r}. Use one of {', '.join(FORMATS)}.")
        if not 0 <= low < high <= 1:
            raise ValueError(f"Data set {role!r} has rows={shares!r}. Give two shares, such as [0, 0.8].")
        file = Path(folder or ".") / source.path
        if file.suffix in READERS and file.is_file():
            return replace(source, path=str(file))
        if file.suffix in READERS or file.exists() or not HUB_DATASET_ID.fullmatch(source.path):
            raise ValueError(
                f"Data set {role!r} is {str(file)!r}. Give an existing file, {', '.join(READERS)}, a Hub id, or one of "
                f"{', '.join(READY_DATASETS)}."
            )
        return source

    def load(self, role: str) -> Dataset:
        """Loads the rows in one of TRL's types; `ValueError` where they cannot be read, or are not in the format."""
        raw = self._raw(role)
        low, high = (round(share * len(raw)) for share in self.rows)
        order = np.random.default_rng(0).permutation(len(raw))[low:high]
        dataset = raw.select(order)
        if self.format is not None:
            format_ = FORMATS[self.format]
            check_cells(role, dataset, format_.cells, order)
            dataset = format_.convert(role, dataset)
        if self.limit is not None:
            dataset = dataset.select(range(min(self.limit, len(dataset))))
        if len(dataset) == 0:
            raise ValueError(f"Data set {role!r} from {self.path!r} has 0 rows. Check its format, rows and limit.")
        return dataset

    def _raw(self, role: str) -> Dataset:
        suffix = Path(self.path).suffix
        if READERS.get(suffix) == "json":
            _check_whole_characters(role, Path(self.path))
        try:
            if suffix in READERS:
                how = {**READING.get(suffix, {}), **self._names()}
                return load_dataset(READERS[suffix], data_files=self.path, split="train", **how)
            return self._from_hub()
        except StopIteration as error:  # raised by `datasets` for a file without a row
            raise ValueError(f"Data set {role!r} from {self.path!r} has 0 rows. Check the file.") from error
        except (OSError, ValueError, DatasetsError, HfHubHTTPError) as error:
            raise ValueError(self._why_unread(role, error)) from error

    def _from_hub(self) -> Dataset:
        """Loads the rows, which say by the address of their page at which commit they were read."""
        files = {} if self.files is None else {"data_files": list(self.files)}
        raw = load_dataset(self.path, self.name, split=self.split, revision=self.revision, **files, **self._names())
        places = [
            COMMIT.search(str(file["filename"])) for file in raw.cache_files
        ]  # the cache has a folder for each commit
        commit = next((found[0] for found in places if found is not None), None)
        raw.info.homepage = HUB_PAGE + self.path + ("" if commit is None else f"/tree/{commit}")
        return raw

    def _names(self) -> dict[str, list[str]]:
        return {} if self.columns is None else {"names": list(self.columns)}

    def _why_unread(self, role: str, error: Exception) -> str:
        """One sentence on why `datasets` could not read the rows, and what to do."""
        suffix = Path(self.path).suffix
        if isinstance(error.__cause__, GatedRepoError):
            return (
                f"Data set {role!r} is {self.path!r}, which is gated. Ask for access on its page, then log in with hf "
                "auth login."
            )
        if "corresponds to no data" in str(error):  # a file that is empty, or has a header alone
            return f"Data set {role!r} from {self.path!r} has 0 rows. Check the file."
        if suffix in READERS:
            reason = str(error.__cause__ or error).splitlines()[0]
            return (
                f"Data set {role!r} cannot be read from the file {self.path!r} ({reason}). Mend the file: {suffix} is read "
                f"as {READERS[suffix]}."
            )
        reason = str(error).splitlines()[0]
        return (
            f"Data set {role!r} cannot be read from {self.path!r} ({reason}). Check its spelling, split and your "
            "connection, or give a local file."
        )


def _check_whole_characters(role: str, file: Path) -> None:
    """Raises `ValueError` for a line with half of a character, which JSON can say and no text holds; readers drop it, or stop."""
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if HALF.search(line) is None:
                continue
            try:
                half = SURROGATE.search(json.dumps(json.loads(line), ensure_ascii=False)) is not None
            except ValueError:  # a document of several lines
                half = True
            if half:
                raise ValueError(
                    f"Data set {role!r} has half of a character in line {number} of {str(file)!r}, as a cut text leaves it. Mend "
                    "the text."
                )


def read_from(dataset: Dataset) -> str | None:
    """Returns the Hub id of a data set that was read from there, with its commit where that is known: `owner/name@commit`; `None`
    for any other.

    What `datasets` makes of a data set, such as a part of its rows, is still from there."""
    page = dataset.info.homepage or ""
    return page.removeprefix(HUB_PAGE).replace("/tree/", "@") if page.startswith(HUB_PAGE) else None


def load_datasets(described: Mapping[str, Any], folder: Path | None = None) -> dict[str, Dataset]:
    """Loads the data set of each role; all descriptions are checked before the first one is read."""
    sources = {role: DataSource.of(role, source, folder) for role, source in described.items()}
    return {role: source.load(role) for role, source in sources.items()}


def hub_datasets(described: Mapping[str, Any] | None) -> list[str]:
    """The ids of the described data sets that come from the Hub, in alphabetical order."""
    sources = [DataSource.of(role, source) for role, source in (described or {}).items()]
    return sorted({source.path for source in sources if Path(source.path).suffix not in READERS})
