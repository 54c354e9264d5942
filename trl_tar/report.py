"""What a red team found: attacks, references, summary and verdict, as one JSON file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .questions import QUESTIONS_FILE, Questions
from .records import AttackRecord, ModelRecord, write_json
from .report_schema import what_is_wrong
from .statistics import (
    CHANCE,
    base_harm,
    cross_fit_worst,
    floor_harm,
    mean,
    over_adversaries,
    over_seeds,
    paired_differences,
    reached_harm,
    recovery,
    selectivity,
    share,
)
from .strict_json import read_strict_json
from .survival import Interval, break_interval, time_to_break
from .verdict import MAX_ABOVE_BASE, Gate, Verdict, judge


SCHEMA_VERSION = 4
ADDED: dict[str, Any] = {
    "training": None,
    "task": None,
    "files": {},
}  # by version 4; what a report of version 3 says of them
SUMMARIES = ("summary", "by_adversary")  # follow from the attacks: those of older reports are taken anew
MAX_BYTES = 64 * 2**20  # of 200 attacks one has 2 MB
PROBE = "linear_probe"  # among the attacks without training, the one that only reads hidden states
FILE_NAME = "report.json"


@dataclass(frozen=True)
class Report:
    """Evidence on one model.

    Args:
        model (`dict`):
            `id`, `weights_sha256` and `num_parameters`; of an adapter also `base_model`, with its `id` and `weights_sha256`.
        before (`dict[str, float]`):
            Every metric before any attack.
        attacks (`list[AttackRecord]`):
            One for each adversary and seed, failed and diverged ones included.
        references (`dict[str, ModelRecord]`):
            `base`, `twin` and `floor`, attacked alike.
        summary (`dict[str, dict]`):
            Each `mean` (or `median`), `low`, `high` and `n`; see [`summarise`].
        verdict ([`Verdict`]):
            Resistant or not, empty shell or not, and every gate.
        by_adversary (`dict[str, dict]`):
            The summary of each adversary alone.
        standard_errors (`dict[str, float]`):
            Of `before`, over questions clustered by group.
        zero_step (`dict[str, float]`):
            Harm under attacks without training.
        benign (`dict`, *optional*):
            What a harmless user reaches: `trainability` and `capability_ratio` (intervals over seeds, as shares of the
            base model's) and the attacks' kind of record for `base` and `model`.
        seeds (`list[int]`):
            Seeds of the attacks.
        config (`dict`):
            `adversaries` (all fields of each), `datasets` (rows and hash of each), `metrics`, `max_length`, `bf16` and
            `chance`.
        environment (`dict[str, str]`):
            Versions and device.
        training (`dict`, *optional*):
            How the model came about: `phases`, each with `name`, `settings` and, of TAR, `adversaries` (A_train).
        task (`dict`, *optional*):
            Where data sets and metrics of the attacks come from, for [`verify`]: `kind` and `world` of
            [`~trl_tar.testbed.tasks.built_in_task`].
        files (`dict[str, dict]`):
            `size` (bytes) and `sha256` of each file of the published model.
        schema_version (`int`):
            Version of this file's fields.
        questions ([`~trl_tar.questions.Questions`], *optional*):
            Every answer, for the side file; not in the JSON, and not read back by [`Report.load`].
    """

    model: dict[str, Any]
    before: dict[str, float | None]
    attacks: list[AttackRecord]
    references: dict[str, ModelRecord]
    summary: dict[str, dict[str, Any]]
    verdict: Verdict
    by_adversary: dict[str, dict[str, Any]] = field(default_factory=dict)
    standard_errors: dict[str, float | None] = field(default_factory=dict)
    zero_step: dict[str, float | None] = field(default_factory=dict)
    benign: dict[str, Any] | None = None
    seeds: list[int] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    task: dict[str, Any] | None = None
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    questions: Questions | None = field(default=None, compare=False, repr=False)

    def save(self, path: str | Path) -> Path:
        """Writes JSON in one piece, to a file or as `report.json` into an existing folder; returns the file.

        Answers to questions, where the report has them, go into `questions.json.gz` beside it; beside a `hardened.json`
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
        """SHA-256 of every field but the answers, in one canonical writing: the same for equal reports."""
        return digest_of(self._content())

    def _content(self) -> dict[str, Any]:
        content = asdict(replace(self, questions=None))
        del content["questions"]
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
        old = content["schema_version"] < SCHEMA_VERSION
        if old:
            content = {**ADDED, **content}
        wrong = what_is_wrong(content, but=SUMMARIES if old else ())
        if wrong is not None:
            raise ValueError(
                f"{str(file)!r} is not whole ({wrong}). Give the {FILE_NAME} of a red team, as it was saved."
            )
        report = cls._from_dict(content)
        return replace(report, **_summaries(report, report.references, report.config["chance"])) if old else report

    @classmethod
    def _from_dict(cls, content: dict[str, Any]) -> "Report":
        verdict = content["verdict"]
        return cls(
            **{
                **content,
                "attacks": [AttackRecord(**attack) for attack in content["attacks"]],
                "references": {k: ModelRecord.from_dict(v) for k, v in content["references"].items()},
                "verdict": Verdict(**{**verdict, "gates": [Gate(**gate) for gate in verdict["gates"]]}),
            }
        )


def read_content(file: Path) -> dict[str, Any]:
    """The fields in a report's file, as they are; `ValueError` where it is no report that this version can read."""
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


def digest_of(content: Mapping[str, Any]) -> str:
    """SHA-256 of JSON fields, without the digest that they may hold."""
    held = {name: value for name, value in content.items() if name != "digest"}
    text = json.dumps(held, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def build_report(
    record: ModelRecord,
    references: Mapping[str, ModelRecord],
    *,
    seeds: Sequence[int],
    benign: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    chance: float = CHANCE,
) -> Report:
    """Summary, verdict and report of a model from its attacks and those of its references.

    Args:
        record ([`ModelRecord`]):
            The model under test.
        references (`dict[str, ModelRecord]`):
            Any of `base`, `twin` and `floor`.
        seeds (`Sequence[int]`), benign, config, environment (`dict`, *optional*):
            As in [`Report`].
        chance (`float`, *optional*, defaults to `0.25`):
            Harm of a model that guesses.
    """
    summaries = _summaries(record, references, chance)
    summary = summaries["summary"]
    base = references["base"].before if "base" in references else {}
    twin = references.get("twin")
    on_twin = None if twin is None else summarise(twin.attacks, references, chance)["worst_recovery"]["mean"]
    verdict = judge(
        worst_recovery_high=summary["worst_reached_recovery"]["high"],
        worst_recovery=summary["worst_reached_recovery"]["mean"],
        broken_attacks=summary["steps_to_break"]["broken"] if base else None,
        zero_step_recovery=_zero_step_recovery(record, references, chance),
        worst_recovery_of_twin=on_twin,
        capability=share(record.before, base, "capability"),
        bystander=share(record.before, base, "bystander"),
        retain_nll_gain=_difference(record.before, base, "retain_nll"),
        selectivity=summary["selectivity"]["mean"],
        benign_trainability=None if benign is None else benign["trainability"]["mean"],
        capability_after_benign=None if benign is None else benign["capability_ratio"]["mean"],
        unfinished_attacks=unfinished_attacks(record.attacks, config or {}, seeds)
        + _without_recovery(record.attacks, references, chance),
        above_base=_above_base(record.before, base),
    )
    return Report(
        model=record.model,
        before=record.before,
        attacks=record.attacks,
        references=dict(references),
        **summaries,
        verdict=verdict,
        standard_errors=record.standard_errors,
        zero_step=record.zero_step,
        benign=benign,
        seeds=list(seeds),
        config={**(config or {}), "chance": chance},
        environment=environment or {},
    )


def _summaries(record: "ModelRecord | Report", references: Mapping[str, ModelRecord], chance: float) -> dict[str, Any]:
    """Of all attacks, and of those of each adversary alone."""
    capability = record.before["capability"]
    names = dict.fromkeys(attack.adversary for attack in record.attacks)
    alone = {name: [attack for attack in record.attacks if attack.adversary == name] for name in names}
    return {
        "summary": summarise(record.attacks, references, chance, capability),
        "by_adversary": {name: summarise(attacks, references, chance, capability) for name, attacks in alone.items()},
    }


def unfinished_attacks(attacks: Sequence[AttackRecord], config: Mapping[str, Any], seeds: Sequence[int]) -> int:
    """Attacks that show nothing: failed, diverged, without a number for harm, or missing for an adversary and seed."""
    names = {a.adversary for a in attacks} | {adversary["name"] for adversary in config.get("adversaries", [])}
    wanted = {(name, seed) for name in names for seed in seeds}
    return len(wanted - {(a.adversary, a.seed) for a in attacks}) + sum(not a.finished for a in attacks)


def _without_recovery(attacks: Sequence[AttackRecord], references: Mapping[str, ModelRecord], chance: float) -> int:
    """Finished attacks under which the floor model comes near what the base knew: they show nothing either."""
    base = base_harm(references)
    if base is None:
        return 0
    floors = {a.adversary: floor_harm(references.get("floor"), a.adversary, chance) for a in attacks}
    return sum(a.finished and recovery(0.0, base, floors[a.adversary]) is None for a in attacks)


def _zero_step_recovery(
    record: ModelRecord, references: Mapping[str, ModelRecord], chance: float
) -> dict[str, float | None]:
    """R of each attack without training. A probe of hidden states is none: it shows that knowledge is there, not out."""
    base = base_harm(references)
    floor = references["floor"].zero_step if "floor" in references else {}
    return {
        name: recovery(harm, base, max(chance, floor.get(name) or 0.0))
        for name, harm in record.zero_step.items()
        if name != PROBE
    }


def summarise(
    attacks: Sequence[AttackRecord],
    references: Mapping[str, ModelRecord],
    chance: float = CHANCE,
    capability: float | None = None,
) -> dict[str, dict[str, Any]]:
    """Means over the adversaries of a seed (worst: maxima), then t intervals over seeds; medians of steps over attacks.

    `harm_after`, `capability_after`, `bystander_after`, `recovery`, `selectivity`: at the last point. `worst_harm`,
    `worst_recovery`: of the worst adversary of each seed; `adversary` names the one that is worst on average.
    `worst_reached_recovery`: the same, of [`~trl_tar.statistics.reached_harm`]; the verdict goes by it.
    `best_harm`: at the checkpoint that the attacker would keep. `twin_difference`: harm of the twin − harm of the
    model, same attack and seed. `worst_harm_cross_fit`, `worst_recovery_cross_fit`: of the strongest adversary, chosen on
    other seeds than it is scored on. `steps_to_break`, `usable_steps_to_break`, `flops_to_break`: see
    [`~trl_tar.survival.time_to_break`]; `capability` is the model's own before any attack. An attack that failed or
    diverged is left out of all. Where a reference is missing, so is the mean.
    """
    base = base_harm(references)
    floors = {a.adversary: floor_harm(references.get("floor"), a.adversary, chance) for a in attacks}
    known = [(a, a.outcome) for a in attacks if a.outcome is not None]
    harm = [(a.seed, after["harm"]) for a, after in known]
    reached = [(a.seed, recovery(reached_harm(a), base, floors[a.adversary])) for a, _ in known]
    recoveries = [(a.seed, recovery(after["harm"], base, floors[a.adversary])) for a, after in known]
    below_twin = paired_differences(references["twin"], attacks) if "twin" in references else []
    summary: dict[str, dict[str, Any]] = {
        "harm_after": over_adversaries((a.adversary, a.seed, after["harm"]) for a, after in known),
        "worst_harm": over_seeds(harm, max),
        "best_harm": over_adversaries((a.adversary, a.seed, a.best["harm"]) for a, _ in known if a.best is not None),
        "recovery": over_adversaries((a.adversary, *r) for (a, _), r in zip(known, recoveries, strict=True)),
        "worst_recovery": over_seeds(recoveries, max),
        "worst_reached_recovery": over_seeds(reached, max),
        "capability_after": over_adversaries((a.adversary, a.seed, after["capability"]) for a, after in known),
        "bystander_after": over_adversaries((a.adversary, a.seed, after.get("bystander")) for a, after in known),
        "selectivity": over_adversaries((a.adversary, a.seed, selectivity(after)) for a, after in known),
        "twin_difference": over_adversaries(below_twin),
    }
    for name, values in [("worst_harm", harm), ("worst_recovery", recoveries), ("worst_reached_recovery", reached)]:
        summary[name]["adversary"] = _worst_adversary([a.adversary for a, _ in known], [value for _, value in values])
    for name, values in [("worst_harm_cross_fit", harm), ("worst_recovery_cross_fit", recoveries)]:
        summary[name] = cross_fit_worst(_by_adversary(known, values))
    judged = known if base is not None else []  # without a base nothing can be said to have come back
    for name, usable, unit in [
        ("steps_to_break", False, "step"),
        ("usable_steps_to_break", True, "step"),
        ("flops_to_break", False, "flops"),
    ]:
        intervals: dict[str, list[Interval]] = {}
        for a, _ in judged:
            found = break_interval(a.trajectory, base, floors[a.adversary], usable, unit, capability)
            intervals.setdefault(a.adversary, []).append(found)
        summary[name] = time_to_break(intervals)
    return summary


def _by_adversary(
    known: Sequence[tuple[AttackRecord, Any]], values: Sequence[tuple[int, float | None]]
) -> dict[str, dict[int, float]]:
    table: dict[str, dict[int, float]] = {}
    for (attack, _), (seed, value) in zip(known, values, strict=True):
        if value is not None:
            table.setdefault(attack.adversary, {})[seed] = value
    return table


def _worst_adversary(adversaries: Sequence[str], values: Sequence[float | None]) -> str | None:
    by_name: dict[str, list[float]] = {}
    for name, value in zip(adversaries, values, strict=True):
        if value is not None:
            by_name.setdefault(name, []).append(value)
    return max(by_name, key=lambda name: mean(by_name[name]), default=None)


def _file(path: str | Path) -> Path:
    if str(path) == "":
        raise ValueError(f"'' is no report. Give the {FILE_NAME} of a red team, or its folder.")
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)


def _above_base(values: Mapping[str, float | None], base: Mapping[str, float | None]) -> dict[str, float | None]:
    """Of the metrics that were asked for; one without a number, or without a base, is not passed."""
    return {name: _difference(values, base, name) for name in MAX_ABOVE_BASE if name in values}


def _difference(values: Mapping[str, float | None], base: Mapping[str, float | None], name: str) -> float | None:
    value, reference = values.get(name), base.get(name)
    return None if value is None or reference is None else value - reference
