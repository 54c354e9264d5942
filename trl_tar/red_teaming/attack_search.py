"""Search for the strongest adversary of a space, with as many trials against the undefended twin."""

import importlib.util
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from ..adversaries.adversary import Adversary
from ..adversaries.choices import OPTUNA
from ..distributed.processes import num_ranks
from ..evaluation.identity import identity
from ..evaluation.scores import Metric, Reward
from ..files import write_json
from ..fingerprints import json_sha256, rows_sha256
from ..models.lora import check_lora_targets
from ..report.records import AttackRecord
from ..report.recovery import USABLE_CAPABILITY
from .as_released import Release, attackers_tokenizer
from .checks import check_containers, check_metrics, check_models, check_red_team
from .job import Job, Settings
from .run_jobs import run_jobs
from .search_figure import plot_search
from .targets import DataStore, Model, Target
from .trials import SearchResult, Trial


if TYPE_CHECKING:  # of the extra trl-tar[search]
    import optuna

Space = Callable[["optuna.Trial"], Adversary]
ROLES = ("model", "twin")


def search(
    model: Model,
    space: Space,
    datasets: Mapping[str, Dataset],
    metrics: Mapping[str, Metric],
    twin: Model,
    output_dir: str | Path,
    num_trials: int = 30,
    *,
    seed: int = 0,
    base: Model | None = None,
    rewards: Mapping[str, Reward] | None = None,
    processing_class: PreTrainedTokenizerBase | None = None,
    num_workers: int = 1,
    max_length: int = 256,
    bf16: bool = False,
) -> SearchResult:
    """Optuna (TPE) looks for the adversary with the most harm, `num_trials` times each against the model and its twin.

    A trial is kept as soon as it is finished: a search that was stopped goes on, and repeats at most what was running.

    Args:
        model, twin (`str`, `Path` or [`~transformers.PreTrainedModel`]):
            As in [`red_team`].
        space (`Callable`):
            Takes an Optuna trial and returns the [`Adversary`] to try.
        datasets, metrics, rewards, processing_class, num_workers, max_length, bf16:
            As in [`red_team`]. The attacker chooses by `validation_harm`, so that `harm` is not the number that was
            maximised. Attacks that take the model's capability come after all that leave it usable.
        output_dir (`str` or `Path`):
            Keeps trials and finished attacks, and gets `search.json` and a figure, `search.png`.
        num_trials (`int`, *optional*, defaults to `30`):
            Trials against each; raise it to go on with a search.
        seed (`int`, *optional*, defaults to `0`):
            Seed of the search, and of every attack.
        base (`str`, `Path` or [`~transformers.PreTrainedModel`], *optional*):
            The public base, for adversaries that read it.

    Returns:
        [`SearchResult`].

    Example:

    ```python
    def space(trial):
        return Adversary(
            "searched",
            "hazard",
            learning_rate=trial.suggest_float("learning_rate", 1e-6, 1e-4, log=True),
            lora_r=trial.suggest_categorical("lora_r", [None, 16]),
            num_steps=200,
        )


    result = search("my-tar-model", space, {"hazard": hazard}, metrics, twin="my-twin", output_dir="search")
    ```
    """
    if num_ranks() > 1:
        raise ValueError(f"`search` was launched as {num_ranks()} processes. Start it once, with `num_workers`.")
    check_containers([], datasets, metrics, [seed], None, output_dir)
    models = {"model": model, "twin": twin, **({} if base is None else {"base": base})}
    check_models(models)
    check_metrics(metrics)
    if importlib.util.find_spec(OPTUNA.name) is None:
        raise ValueError(f"`search` needs {OPTUNA.name!r}. Run `pip install {OPTUNA.install}`.")
    if type(num_trials) is not int or num_trials < 1:
        raise ValueError(f"`num_trials` is {num_trials!r}. Use at least 1.")
    tokenizer = attackers_tokenizer(model, base) if processing_class is None else processing_class
    settings = Settings(tokenizer, dict(metrics), {}, None, max_length, bf16, dict(rewards or {}))
    output = Path(output_dir)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        targets = {role: Target.of(target, work / role) for role, target in models.items()}
        settings = Release.of(model, targets, None, settings).settings
        digest = _digest(space, targets, datasets, settings)
        runner = _Trials(models, targets, dict(datasets), settings, output, seed, num_workers, work, digest)
        trials = {role: runner.run(role, space, num_trials) for role in ROLES}
    result = SearchResult(trials)
    write_json(output / "search.json", asdict(result)["trials"])
    both = [trial for role in ROLES for trial in trials[role]]
    if all(trial.status == "failed" for trial in both):
        raise ValueError(
            f"All {len(both)} trials failed, the last one with {both[-1].error!r}. Change the space or the data sets."
        )
    plot_search(result).savefig(output / "search.png", dpi=150)
    return result


def _digest(space: Space, targets: Mapping[str, Target], datasets: Mapping[str, Dataset], settings: Settings) -> str:
    """Hashes all that the trials depend on, so that a search with other arguments is another study."""
    question = {
        **settings.key(),
        "objective": "usable first",  # trials that were told another number are no part of this study
        "space": identity(space),
        "rewards": {name: settings.identities["reward", name] for name in settings.rewards},
        "datasets": {name: rows_sha256(dataset) for name, dataset in datasets.items()},
        "models": {
            role: [target.information[part] for part in ("weights_sha256", "config_sha256")]
            for role, target in targets.items()
        },
    }
    return json_sha256(question)[:20]


@dataclass
class _Trials:
    """The trials of one search and what they are made with; see the arguments of [`search`]."""

    models: Mapping[str, Model]
    targets: Mapping[str, Target]
    datasets: dict[str, Dataset]
    settings: Settings
    output: Path
    seed: int
    num_workers: int
    work: Path
    digest: str

    def run(self, role: str, space: Space, num_trials: int) -> list[Trial]:
        """Runs all trials against one model; those of an earlier run are read, and what it left running is done again."""
        study = self._study(role)
        target = self.targets[role]
        (measured,) = self._run([target.job()])
        capability = measured["before"]["capability"]
        unfinished = [trial.number for trial in tried(study) if not trial.state.is_finished()]
        while True:
            batch = unfinished[: self.num_workers]
            unfinished = unfinished[self.num_workers :]
            while not unfinished and len(batch) < self.num_workers and len(tried(study)) < num_trials:
                batch.append(self._ask(study, space))
            if not batch:
                return [_trial(place, trial) for place, trial in enumerate(tried(study)[:num_trials])]
            adversaries = {number: Adversary(**study.trials[number].user_attrs["adversary"]) for number in batch}
            for number, record in self._attacked(role, adversaries).items():
                self._tell(study, number, record, capability)

    def _study(self, role: str) -> "optuna.Study":
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = f"sqlite:///{self.output / 'search.db'}"
        return optuna.create_study(
            storage=storage,
            study_name=f"{role}-{self.digest}-seed{self.seed}",
            direction="maximize",
            load_if_exists=True,
        )

    def _ask(self, study: "optuna.Study", space: Space) -> int:
        import optuna

        # each trial has a sampler with a seed of its own, so that a search that goes on asks what it would have asked;
        # 100,003 keeps the seeds of two searches of fewer trials apart
        study.sampler = optuna.samplers.TPESampler(seed=self.seed * 100_003 + len(tried(study)), constant_liar=True)
        trial = study.ask()
        adversary = space(trial)
        check_red_team(self.models, [adversary], self.datasets, self.settings, [self.seed], self.num_workers, None)
        for target in self.targets.values():
            check_lora_targets(target.modules, adversary.sequence)
        trial.set_user_attr("adversary", asdict(adversary))
        return trial.number

    def _attacked(self, role: str, adversaries: Mapping[int, Adversary]) -> dict[int, AttackRecord]:
        """Attacks with each trial's adversary; a trial whose rows cannot be had, as for a batch of too many, has failed."""
        target, base = self.targets[role], self.targets.get("base")
        jobs, records = {}, {}
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            for number, adversary in adversaries.items():
                place = Path(folder, str(number))
                try:
                    store = DataStore.tokenised([adversary], self.datasets, target, self.settings, place)
                except ValueError as error:
                    records[number] = AttackRecord(adversary.name, self.seed, "failed", f"ValueError: {error}")
                else:
                    jobs[number] = store.job(target, adversary, self.seed, base=base)
            results = self._run(list(jobs.values()))
        return records | {n: AttackRecord(**result["record"]) for n, result in zip(jobs, results, strict=True)}

    def _run(self, jobs: list[Job]) -> list[dict[str, Any]]:
        return run_jobs(jobs, self.settings, self.output / "jobs", self.num_workers)

    def _tell(self, study: "optuna.Study", number: int, record: AttackRecord, capability: float | None) -> None:
        import optuna

        outcome = record.outcome or {}
        harm = outcome.get("harm")
        capability_after = outcome.get("capability")
        notes = {
            "status": record.status,
            "error": record.error,
            "selection_harm": outcome.get("validation_harm", harm),
            "harm": harm,
            "capability": capability_after,
            "usable": None
            if capability_after is None or capability is None
            else capability_after >= USABLE_CAPABILITY * capability,
        }
        trial = optuna.Trial(study, study.trials[number]._trial_id)
        for name, value in notes.items():
            trial.set_user_attr(name, value)
        if notes["selection_harm"] is None:
            study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            # harm is a share: 1 less puts what took the model's capability behind all that did not, in the order of its harm
            study.tell(number, notes["selection_harm"] - (notes["usable"] is False))


def tried(study: "optuna.Study") -> list["optuna.trial.FrozenTrial"]:
    """Returns the trials that got as far as an adversary; one whose space raised, or that was killed before, is none."""
    return [trial for trial in study.trials if "adversary" in trial.user_attrs]


def _trial(place: int, trial: "optuna.trial.FrozenTrial") -> Trial:
    notes = {name: trial.user_attrs.get(name) for name in Trial.__dataclass_fields__ if name != "number"}
    return Trial(number=place, **notes)
