"""The report of a red team: attacks, references, summary and verdict, as one JSON file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, with_config

from ..files import read_strict_json, write_json
from ..fingerprints import digest_of
from .answers import QUESTIONS_FILE, Questions
from .provenance import MOST_ADVERSARIES, Config, File, Task, Training
from .records import Benign, ModelRecord
from .schema import AS_RECORDED, OPTIONAL, STRICT, OneByOne, Seed, Several, Text, check_once, read, whole, written
from .summary import Summary, summaries_of, summarise
from .verdict import Verdict


SCHEMA_VERSION = 6  # what each version covers that the ones before did not is in `older.SINCE`
SAME_FIELDS = 4  # the first version with the fields of this one
# the fields that version 4 added, with the values that a report of version 3 gets
ADDED: dict[str, Any] = {"training": None, "task": None, "files": {}}
MAX_BYTES = 64 * 2**20  # a choice, about 30 times a report of 200 attacks, which has 2 MB
# adversaries × seeds, which readers go through one by one in milliseconds each; a choice, above any suite
MAX_ATTACKS = MOST_ADVERSARIES
FILE_NAME = "report.json"


def _each_once(seeds: Sequence[int]) -> Sequence[int]:
    check_once(seeds)
    return seeds


def _not_in_the_file(_: Any) -> None:
    raise ValueError("Extra inputs are not permitted")


Role = Annotated[str, Field(pattern="^(base|twin|floor)$")]


@with_config(STRICT)
@dataclass(frozen=True, kw_only=True)
class Report(ModelRecord):
    """Holds the evidence on one model: its record, and what follows from it.

    Args:
        model (`dict`):
            `id`, `weights_sha256` and `num_parameters`; of an adapter also `base_model`, with its `id` and `weights_sha256`.
        before (`dict[str, float]`):
            Every metric before any attack.
        attacks (`list[AttackRecord]`):
            One record for each adversary and seed, with failed and diverged attacks.
        references (`dict[str, ModelRecord]`):
            `base`, `twin` and `floor`, attacked alike.
        summary (`dict[str, dict]`):
            Each `mean` (or `median`), `low`, `high` and `n`; see [`summarise`].
        verdict ([`Verdict`]):
            Resistant or not, empty shell or not, every gate, and what was not tried.
        by_adversary (`dict[str, dict]`):
            The summary of each adversary alone.
        standard_errors (`dict[str, float]`):
            Standard errors of `before`, over questions clustered by group.
        zero_step (`dict[str, float]`):
            Harm under attacks without training.
        benign (`dict`, *optional*):
            What a harmless user reaches: `trainability` and `capability_ratio` (intervals over seeds, as shares of the
            base model's) and the attacks' kind of record for `base` and `model`.
        seeds (`list[int]`):
            Seeds of the attacks.
        config (`dict`):
            `adversaries` (all fields of each), `datasets` (rows and hash of each), `metrics`, `max_length`, `bf16` and
            `chance`, `budget` where there was one, and `searches` where adversaries were found by some: see
            [`~trl_tar.report.provenance.Config`].
        environment (`dict[str, str]`):
            Versions and device.
        training (`dict`, *optional*):
            How the model was trained: `phases`, each with `name`, `settings` and, of TAR, `adversaries` (A_train).
        task (`dict`, *optional*):
            Where data sets and metrics of the attacks come from, for [`verify`]: `kind` and `world` of
            [`~trl_tar.tasks.built_in.built_in_task`].
        files (`dict[str, dict]`):
            `size` (bytes) and `sha256` of each file of the published model.
        schema_version (`int`):
            Version of this file's fields.
        questions ([`~trl_tar.report.answers.Questions`], *optional*):
            Every answer, for the side file; not in the JSON, and not read back by [`Report.load`].
    """

    references: OneByOne[dict[Role, ModelRecord]]
    summary: Summary
    verdict: Verdict
    by_adversary: OneByOne[dict[str, Summary]] = field(default_factory=dict)
    benign: Benign | None = None
    seeds: Annotated[Several[Seed], AfterValidator(_each_once)] = field(default_factory=list)
    config: Annotated[Config, AS_RECORDED]
    environment: dict[str, Text] = field(default_factory=dict)
    training: Training | None = None
    task: Task | None = None
    files: OneByOne[dict[str, File]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    questions: Annotated[Questions | None, BeforeValidator(_not_in_the_file)] = field(
        default=None, compare=False, repr=False, metadata=OPTIONAL
    )

    def save(self, path: str | Path) -> Path:
        """Writes JSON in one piece, to a file or as `report.json` into an existing folder; returns the file.

        Answers to questions, where the report has them, go into `questions.json.gz` next to it; those of a `hardened.json`
        into `hardened.questions.json.gz`."""
        file = _file(path)
        if self.questions is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            default = file.name == FILE_NAME
            self.questions.save(file.parent if default else file.with_suffix(f".{QUESTIONS_FILE}"))
        write_json(file, {**self._content(), "digest": self.digest})
        return file

    @property
    def digest(self) -> str:
        """SHA-256 of every field but the answers, as canonical JSON: equal reports have the same."""
        return digest_of(self._content())

    def _content(self) -> dict[str, Any]:
        content = written(replace(self, questions=None))
        return {"schema_version": content.pop("schema_version"), **content}

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Reads what [`Report.save`] wrote, from the file or its folder.

        Raises:
            `ValueError`: if the file is not a report, of a newer schema, or with a field that is not as it must be.
        """
        file = _file(path)
        content = read_content(file)
        content.pop("digest", None)
        try:
            return report_of(content)
        except ValueError as error:
            raise ValueError(
                f"{str(file)!r} is not whole ({error}). Give the {FILE_NAME} of a red team, as it was saved."
            ) from None


_SCHEMA: TypeAdapter[Report] = TypeAdapter(Annotated[Report, whole(Report)])


def report_of(content: Mapping[str, Any]) -> Report:
    """Builds the report from its JSON fields, without the digest; raises `ValueError` for the first field that is wrong.

    The summaries of a report from before version 4 are computed again from its attacks, whatever the file says of them; one of
    version 4 is read as it was recorded, and keeps its digest."""
    if content["schema_version"] >= SAME_FIELDS:
        return _few_enough(read(_SCHEMA, content))
    unknown = {"summary": summarise([], {}), "by_adversary": {}}
    report = _few_enough(read(_SCHEMA, {**ADDED, **content, **unknown}))
    return replace(report, **summaries_of(report, report.references, report.config["chance"]))


def _few_enough(report: Report) -> Report:
    names = {adversary["name"] for adversary in report.config.get("adversaries", [])}
    names |= {attack.adversary for attack in report.attacks}
    if len(names) * len(report.seeds) > MAX_ATTACKS:
        raise ValueError(
            f"{len(names)} adversaries with {len(report.seeds)} seeds each, more than {MAX_ATTACKS} attacks"
        )
    return report


def read_content(file: Path) -> dict[str, Any]:
    """Reads the fields in a report's file; raises `ValueError` if it is no report that this version can read."""
    if not file.is_file():
        raise ValueError(
            f"{str(file)!r} holds no report: there is no such file. Give the {FILE_NAME} of a red team, or its folder."
        )
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(
            f"{str(file)!r} has {file.stat().st_size / 2**20:.0f} MiB, more than the {MAX_BYTES // 2**20} of any report. Give "
            f"the {FILE_NAME} of a red team."
        )

    content = read_strict_json(file, f"Give the {FILE_NAME} of a red team, as it was saved.")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int:
        raise ValueError(f"{str(file)!r} has no schema_version. Give the {FILE_NAME} of a red team.")
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{str(file)!r} has schema_version {version}, and this trl_tar reads up to {SCHEMA_VERSION}. Upgrade trl-tar."
        )
    return content


def _file(path: str | Path) -> Path:
    if str(path) == "":
        raise ValueError(f"'' is no report. Give the {FILE_NAME} of a red team, or its folder.")
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
