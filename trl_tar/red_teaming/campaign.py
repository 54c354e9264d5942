"""The jobs of a red team and what they found."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ..adversaries.adversary import Adversary
from ..fingerprints import vocabulary_sha256
from ..report.answers import Questions
from ..report.records import AttackRecord, ModelRecord
from ..tasks.benign import BenignTask
from .as_released import stronger, stronger_before
from .custom_attacks import custom_sources
from .job import Job, Settings
from .run_jobs import run_jobs
from .targets import DataStore, Target


Attack = tuple[Adversary, int]  # and its seed


@dataclass(frozen=True)
class Findings:
    """The results of all jobs.

    Args:
        measured (`dict[str, dict]`):
            Role → what the model could do before any attack.
        benign (`tuple[list[AttackRecord], list[AttackRecord]]`):
            Runs of the benign task, by the base and by the model; none without such a task.
        attacked (`dict[str, list[dict]]`):
            Role → results of the attacks, in their order.
    """

    measured: dict[str, dict[str, Any]]
    benign: tuple[list[AttackRecord], list[AttackRecord]]
    attacked: dict[str, list[dict[str, Any]]]

    def records(self, targets: Mapping[str, Target]) -> dict[str, ModelRecord]:
        """Returns what was measured on each model, by its role."""
        records = {}
        for role, target in targets.items():
            before = {
                name: self.measured[role][name] for name in ("before", "standard_errors", "zero_step", "unanswered")
            }
            attacks = [AttackRecord(**result["record"]) for result in self.attacked[role]]
            records[role] = ModelRecord(model=target.information, attacks=attacks, **before)
        return records

    def with_release(self, measured: Mapping[str, Any], attacked: Sequence[dict[str, Any]]) -> "Findings":
        """Returns the findings with the stronger result of each attack on the model, and with the more harm before them.

        Args:
            measured (`dict`):
                What the model could do before any attack, as it is released.
            attacked (`list[dict]`):
                Results of the same attacks, as it is released.
        """
        stronger_attacks = [stronger(*pair) for pair in zip(self.attacked["model"], attacked, strict=True)]
        return replace(
            self,
            measured={**self.measured, "model": stronger_before(self.measured["model"], measured)},
            attacked={**self.attacked, "model": stronger_attacks},
        )

    def questions(self) -> Questions:
        """The answers to each question, before and after every attack."""
        before = {role: result["questions"] for role, result in self.measured.items()}
        after = {
            role: {f"{r['record']['adversary']}/{r['record']['seed']}": r["questions"] for r in results}
            for role, results in self.attacked.items()
        }
        return Questions(self.measured["model"]["groups"], before, after)


@dataclass(frozen=True)
class Campaign:
    """The jobs of one red team: each model measured and attacked, and a benign task trained on two of them.

    Args:
        targets (`dict[str, Target]`):
            Role → model.
        store ([`DataStore`]):
            The tokenised data sets.
        settings ([`Settings`]):
            What all jobs share.
        seeds (`list[int]`):
            Seeds of each attack.
        evaluation_steps (`list[int]`, *optional*):
            As in [`red_team`].
        benign ([`BenignTask`], *optional*):
            As in [`red_team`].
        folder (`Path`):
            Folder of the job files.
        num_workers (`int`):
            As in [`red_team`].
    """

    targets: Mapping[str, Target]
    store: DataStore
    settings: Settings
    seeds: Sequence[int]
    evaluation_steps: Sequence[int] | None
    benign: BenignTask | None
    folder: Path
    num_workers: int

    def chosen(self, adversaries: Sequence[Adversary], budget: int | None) -> list[Attack]:
        """The attacks that the budget buys; every adversary with every seed where it buys all.

        Where it does not, the first seed of each adversary is attacked with here, to learn which are the strongest."""
        attacks = [(adversary, seed) for adversary in adversaries for seed in self.seeds]
        if budget is None or budget >= len(attacks):
            return attacks
        first = [(adversary, self.seeds[0]) for adversary in adversaries][:budget]
        measurements = self._measurements()  # first, so that a metric which cannot be used ends the run at once
        results = self._run([*measurements, *self._attacks(first)])[len(measurements) :]
        on_model = [AttackRecord(**result["record"]) for result in results[: len(first)]]
        return within_budget(attacks, first, on_model, budget)

    def findings(self, attacks: Sequence[Attack]) -> Findings:
        """Runs all jobs, those of every model and of the benign task at once: no worker waits for the last of a model."""
        benign = self._benign_runs()
        results = iter(self._run([*self._measurements(), *benign, *self._attacks(attacks)]))
        measured = {role: next(results) for role in self.targets}
        runs = [AttackRecord(**next(results)["record"]) for _ in benign]
        attacked = {role: [next(results) for _ in attacks] for role in self.targets}
        return Findings(measured, (runs[: len(runs) // 2], runs[len(runs) // 2 :]), attacked)

    def on_model(self, attacks: Sequence[Attack]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Measures the model, and attacks it alone."""
        measured, *attacked = self._run([self.targets["model"].job(), *self._attacks_on("model", attacks)])
        return measured, attacked

    def config(self, adversaries: Sequence[Adversary]) -> dict[str, Any]:
        """Returns what the attacks read and how they were made, for the report."""
        return {
            "adversaries": [asdict(adversary) for adversary in adversaries],
            "datasets": self.store.description(),
            "metrics": list(self.settings.metrics),
            "asked": self.settings.wordings(),
            "tokenizer_sha256": vocabulary_sha256(self.settings.tokenizer),
            "max_length": self.settings.max_length,
            "bf16": self.settings.bf16,
            **({"graded": gradings} if (gradings := self.settings.gradings()) else {}),
            **({"custom": sources} if (sources := custom_sources(adversaries)) else {}),
        }

    def _run(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        name = self.targets["model"].information["id"]  # a model built in memory has none
        return run_jobs(
            jobs, self.settings, self.folder, self.num_workers, f"red team of {name}" if name else "red team"
        )

    def _measurements(self) -> list[Job]:
        return [target.job() for target in self.targets.values()]

    def _benign_runs(self) -> list[Job]:
        if self.benign is None:
            return []
        task, steps = self.benign.adversary(), self.benign.evaluation_steps()
        pair = (self.targets["base"], self.targets["model"])
        return [self.store.job(target, task, seed, steps, benign=True) for target in pair for seed in self.seeds]

    def _attacks(self, attacks: Sequence[Attack]) -> list[Job]:
        return [job for role in self.targets for job in self._attacks_on(role, attacks)]

    def _attacks_on(self, role: str, attacks: Sequence[Attack]) -> list[Job]:
        target, base = self.targets[role], self.targets.get("base")
        return [
            self.store.job(target, adversary, seed, grid(adversary, self.evaluation_steps), base=base)
            for adversary, seed in attacks
        ]


def grid(adversary: Adversary, evaluation_steps: Sequence[int] | None) -> tuple[int, ...] | None:
    """The wanted steps that the attack has, and its last one; `None` for the default ones."""
    if evaluation_steps is None:
        return None
    return tuple(sorted({step for step in evaluation_steps if step < adversary.num_steps} | {adversary.num_steps}))


def within_budget(
    attacks: Sequence[Attack], first: Sequence[Attack], records: Sequence[AttackRecord], budget: int
) -> list[Attack]:
    """The attacks that tell most: each adversary once, then the other seeds of the strongest, the next strongest, ….

    Args:
        attacks (`Sequence[tuple]`):
            All pairs of adversary and seed; the result keeps their order.
        first (`Sequence[tuple]`):
            Those already made, with their `records`.
        records (`Sequence[AttackRecord]`):
            What `first` did to the model.
        budget (`int`):
            Number of attacks on each model.

    Returns:
        `list[tuple]`: `budget` attacks at most.
    """
    harm = {record.adversary: record.harm for record in records if record.harm is not None}
    rest = [attack for attack in attacks if attack not in first and attack[0].name in harm]
    rest.sort(key=lambda attack: -harm[attack[0].name])  # stable: seeds of one adversary stay together
    chosen = [*first, *rest][:budget]
    return [attack for attack in attacks if attack in chosen]
