"""The models of a red team."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel

from ..adversaries.adversary import Adversary
from ..adversaries.data_order import check_adversary_batches
from ..data.sources import read_from
from ..fingerprints import config_sha256, json_sha256, rows_sha256, weights_sha256
from ..models.architecture import check_saved, outputs_of
from ..models.loading import base_weights, load, shown_name
from ..models.lora import check_lora_targets, module_names
from ..models.sharing import check_sharing
from .attack_rows import full_rows, tokenised_datasets
from .job import Job, Settings


Model = str | Path | PreTrainedModel


@dataclass(frozen=True)
class Target:
    """A model to attack.

    Args:
        path (`str`):
            Folder or Hub id.
        information (`dict`):
            What a report says of the model: id, hashes of weights and configuration, parameters and, of an adapter, its base.
        modules (`tuple[str, ...]`):
            Names of the modules that LoRA can target.
    """

    path: str
    information: dict[str, Any]
    modules: tuple[str, ...]

    @classmethod
    def of(cls, model: Model, folder: Path) -> "Target":
        """Loads and hashes a model; one in memory is saved to `folder` first."""
        if isinstance(model, PreTrainedModel):
            check_sharing(model)
            model.save_pretrained(folder)
            path, name = str(folder), model.config._name_or_path
        else:
            path = name = str(model)
        loaded = load(path)
        outputs_of(loaded)  # which refuses what is no causal language model of text
        if isinstance(model, PreTrainedModel):
            check_saved(model, loaded)
        information = {
            "id": shown_name(name),
            "weights_sha256": weights_sha256(loaded),
            "num_parameters": loaded.num_parameters(),
            "config_sha256": config_sha256(loaded),
        }
        if (base := base_weights(path)) is not None:
            information["base_model"] = base
        return cls(path, information, tuple(module_names(loaded)))

    def sha256(self) -> str:
        """Returns the hash of weights and configuration."""
        return json_sha256([self.information["weights_sha256"], self.information["config_sha256"]])

    def job(self) -> Job:
        """Returns the job that measures the model before any attack."""
        return Job(self.path, self.information["weights_sha256"], self.information["config_sha256"])


def targets_of(models: Mapping[str, Model], adversaries: Sequence[Adversary], folder: Path) -> dict[str, Target]:
    """The models by their role; `ValueError` where an adversary puts LoRA on modules that one of them does not have."""
    targets = {role: Target.of(model, folder / role) for role, model in models.items()}
    for target in targets.values():
        check_lora_targets(target.modules, [part for adversary in adversaries for part in adversary.sequence])
    return targets


@dataclass
class DataStore:
    """Every data set, tokenised once for all jobs: folder, hash and number of rows by objective and name, and of those that were
    left out, or are as long as a row may be; and by name the place on the Hub, of those that were read from there."""

    paths: dict[tuple[str, str], str] = field(default_factory=dict)
    sha256: dict[tuple[str, str], str] = field(default_factory=dict)
    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    shortened: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    @classmethod
    def tokenised(
        cls,
        adversaries: Sequence[Adversary],
        datasets: Mapping[str, Dataset],
        target: Target,
        settings: Settings,
        folder: Path,
    ) -> "DataStore":
        """Tokenises what the adversaries read; `ValueError` for a data set with fewer rows than a batch takes."""
        store, model = cls(), load(target.path)
        for adversary in adversaries:
            keys = [(objective, name) for name, objective in adversary.reads.items()]
            missing = [key for key in keys if key not in store.paths]
            if missing:
                tokenised = tokenised_datasets(model, settings.tokenizer, adversary, datasets, settings.max_length)
            for key in missing:
                store.rows[key] = len(tokenised[key[1]])
                store.sources |= {key[1]: place} if (place := read_from(datasets[key[1]])) is not None else {}
                store.shortened[key] = _shortened(*key, datasets, tokenised, settings.max_length)
            sizes = {name: range(store.rows[objective, name]) for name, objective in adversary.reads.items()}
            check_adversary_batches(adversary.sequence, sizes)  # a range is as long as the data set
            for key in missing:
                store._add(key, tokenised[key[1]], folder / str(len(store.paths)))
        return store

    def _add(self, key: tuple[str, str], dataset: Dataset, folder: Path) -> None:
        assert not folder.exists()  # a data set would take the place of another
        dataset.save_to_disk(folder)
        self.paths[key], self.sha256[key] = str(folder), rows_sha256(dataset)

    def job(
        self,
        target: Target,
        adversary: Adversary,
        seed: int,
        evaluation_steps: tuple[int, ...] | None = None,
        benign: bool = False,
        base: Target | None = None,
    ) -> Job:
        """Returns the job of an attack, or of a benign task."""
        keys = {name: (objective, name) for name, objective in adversary.reads.items()}
        paths = {name: self.paths[key] for name, key in keys.items()}
        digests = {name: self.sha256[key] for name, key in keys.items()}
        attack = {"adversary": adversary, "seed": seed, "data": paths, "data_sha256": digests}
        job = replace(target.job(), evaluation_steps=evaluation_steps, benign=benign, **attack)
        if not adversary.needs_base:
            return job
        assert base is not None  # check_red_team
        return replace(job, base=base.path, base_sha256=base.sha256())

    def description(self) -> list[dict[str, Any]]:
        """Returns name, objective, rows and hash of each data set, and of rows left out or cut how many, for the report."""
        return [
            {
                "name": key[1],
                "objective": key[0],
                "rows": self.rows[key],
                "sha256": self.sha256[key],
                **({"source": self.sources[key[1]]} if key[1] in self.sources else {}),
                **self.shortened[key],
            }
            for key in self.paths
        ]


def _shortened(
    objective: str,
    name: str,
    datasets: Mapping[str, Dataset],
    tokenised: Mapping[str, Dataset],
    max_length: int,
) -> dict[str, int]:
    """How many rows `max_length` left out, and how many it may have cut; nothing where none. GRPO reads prompts as they are."""
    if objective == "grpo":
        return {}
    counts = {
        "left_out": len(datasets[name]) - len(tokenised[name]),
        "full": full_rows(tokenised[name], max_length),
    }
    return {what: count for what, count in counts.items() if count}


def loadable(model: Model) -> str | PreTrainedModel:
    """Returns what transformers loads a configuration from."""
    return model if isinstance(model, PreTrainedModel) else str(model)
