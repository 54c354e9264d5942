"""One attack with one seed, as one piece of work."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..adversaries.adversary import Adversary
from ..environment import PACKAGES
from ..evaluation.identity import identity
from ..evaluation.judges import JudgeError
from ..evaluation.scores import DescribedMetric, Metric, Reward, Scores, is_share, takes_template
from ..files import finite
from ..fingerprints import json_sha256, rows_sha256, vocabulary_sha256
from ..models.generation import end_tokens, set_end_tokens
from ..models.loading import load
from ..models.training_noise import disable_training_noise
from ..report.answers import groups_of, rounded
from ..report.intervals import clustered_standard_error
from ..report.records import AttackRecord
from .attack import run_attack
from .custom_attacks import custom_sources
from .trl_attackers import as_found


FORMAT = 7  # of job files; raise it when an attack or its record changes
# what an attack may fail with: memory, files, a missing library, data or settings that TRL refuses, tokens or positions that
# a model does not embed. Anything else, such as TypeError, KeyError or ZeroDivisionError, is a bug here or in a metric, and
# ends the run: finished jobs are kept. So does a judge that fails
FAILURES = (RuntimeError, ValueError, OSError, MemoryError, ImportError, IndexError)


@dataclass
class Settings:
    """The arguments of a red team that all its jobs share; they are sent once to each worker.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Tokenizer of all the models.
        metrics, zero_step_attacks, rewards (`dict[str, Callable]`):
            As in [`red_team`].
        benign_metric (`Callable`, *optional*):
            What a benign task is judged by.
        max_length (`int`):
            Longest row in tokens.
        bf16 (`bool`):
            bf16 autocast.
        end_tokens (`tuple[int, ...]`, *optional*):
            Tokens that end an answer, in addition to the tokenizer's; by default those that each model names itself.
        training_noise (`bool`, *optional*, defaults to `False`):
            Train with the dropout that each model's configuration asks for.
    """

    tokenizer: PreTrainedTokenizerBase
    metrics: Mapping[str, Metric]
    zero_step_attacks: Mapping[str, Metric]
    benign_metric: Metric | None
    max_length: int
    bf16: bool
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    end_tokens: tuple[int, ...] | None = None
    training_noise: bool = False
    identities: Mapping[tuple[str, str], str] = field(init=False)  # taken before a metric has cached anything

    def __post_init__(self):
        parts = {
            "metric": self.metrics,
            "zero-step": self.zero_step_attacks,
            "reward": self.rewards,
            "benign": {"benign": self.benign_metric},
        }
        self.identities = {
            (kind, name): identity(function) for kind, part in parts.items() for name, function in part.items()
        }

    def described(self) -> dict[str, DescribedMetric]:
        """Returns the metrics that say more than their scores, each under its name."""
        every = {**self.zero_step_attacks, "benign": self.benign_metric, **self.metrics}
        return {name: metric for name, metric in every.items() if isinstance(metric, DescribedMetric)}

    def wordings(self) -> dict[str, str]:
        """Returns metric → how it asks, of those that say so."""
        return {name: said for name, metric in self.described().items() if (said := metric.wording()) is not None}

    def gradings(self) -> dict[str, str]:
        """Returns metric → who graded its answers, and how, of those that a judge grades."""
        return {name: said for name, metric in self.described().items() if (said := metric.grading()) is not None}

    def key(self) -> dict[str, Any]:
        """Returns what every result depends on, as JSON."""
        return {
            "format": FORMAT,
            "packages": {name: version(name) for name in PACKAGES},
            "metrics": {name: self.identities["metric", name] for name in self.metrics},
            "tokenizer": vocabulary_sha256(self.tokenizer),
            "max_length": self.max_length,
            "bf16": self.bf16,
            "end_tokens": self.end_tokens,
            "training_noise": self.training_noise,
        }

    def loaded(self, model: str, quantization: str | None = None) -> PreTrainedModel:
        """Loads a model as all of them are attacked: what comes with it decides neither how it answers nor how it learns."""
        loaded = load(model, quantization)
        own = end_tokens(loaded.config, loaded.generation_config, self.tokenizer)
        set_end_tokens(loaded, own if self.end_tokens is None else self.end_tokens)
        if not self.training_noise:
            disable_training_noise(loaded)
        return loaded


@dataclass(frozen=True)
class Job:
    """One piece of work on one model: a measurement (`adversary` is `None`), an attack, or a benign task.

    Args:
        model (`str`):
            Folder or Hub id.
        weights_sha256 (`str`):
            Hash of its weights.
        config_sha256 (`str`):
            Hash of its configuration and generation configuration, since with other ones the same weights answer otherwise.
        adversary ([`Adversary`], *optional*):
            The attack.
        seed (`int`, *optional*):
            Its seed.
        data (`dict[str, str]`, *optional*):
            Folder of each tokenised data set.
        data_sha256 (`dict[str, str]`, *optional*):
            Hash of each.
        evaluation_steps (`tuple[int, ...]`, *optional*):
            Steps after which to evaluate, if not the default ones.
        benign (`bool`, *optional*, defaults to `False`):
            The adversary is a benign task, which has metrics of its own.
        base (`str`, *optional*):
            Folder of the public base, for an attack that reads it.
        base_sha256 (`str`, *optional*):
            Hash of its weights and configuration.
    """

    model: str
    weights_sha256: str
    config_sha256: str
    adversary: Adversary | None = None
    seed: int | None = None
    data: Mapping[str, str] | None = None
    data_sha256: Mapping[str, str] | None = None
    evaluation_steps: tuple[int, ...] | None = None
    benign: bool = False
    base: str | None = None
    base_sha256: str | None = None

    def file_name(self, settings: Settings) -> str:
        """A readable name, and a hash of all that the result depends on: no two different jobs share a file."""
        key = {
            **settings.key(),
            "weights": self.weights_sha256,
            "config": self.config_sha256,
            "adversary": None if self.adversary is None else asdict(self.adversary),
            "seed": self.seed,
            "data": self.data_sha256,
            "evaluation_steps": self.evaluation_steps,
        }
        if self.base_sha256 is not None:
            key["base"] = self.base_sha256
        rewards = [] if self.adversary is None else [part.reward for part in self.adversary.sequence if part.reward]
        if rewards:
            key["rewards"] = [settings.identities["reward", name] for name in rewards]
        if self.adversary is not None and (sources := custom_sources([self.adversary])):
            key["custom"] = sources
        if self.adversary is None:
            key["zero_step"] = {name: settings.identities["zero-step", name] for name in settings.zero_step_attacks}
        if self.benign:
            key["benign"] = settings.identities["benign", "benign"]
        digest = json_sha256(key)[:20]
        label = "before" if self.adversary is None else f"{self.adversary.name}-seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9._=-]+', '_', label)[:80]}-{self.weights_sha256[:8]}-{digest}.json"


def run_job(job: Job, settings: Settings) -> dict[str, Any]:
    """Runs a job, and returns its result as JSON.

    The result of an attack is its `record` and the answers to each of the `questions` at its end; of a measurement, see
    [`measure_before`]. An attack that raises one of `FAILURES` is recorded as failed.

    Raises:
        [`JudgeError`]: where a judge fails.
    """
    if job.adversary is None:
        return measure_before(settings.loaded(job.model), settings)
    assert job.seed is not None and job.data is not None and job.data_sha256 is not None
    metrics = settings.metrics
    if job.benign:
        assert settings.benign_metric is not None
        metrics = {"benign": settings.benign_metric, "capability": metrics["capability"], "harm": metrics["harm"]}
    shares = {name: is_share(name, metric) for name, metric in metrics.items()}
    if job.adversary.prompt_template is not None:
        template = {"prompt_template": job.adversary.prompt_template}
        metrics = {name: partial(m, **template) if takes_template(m) else m for name, m in metrics.items()}
    last: dict[str, Scores] = {}
    highest: list[Scores] = []  # harm where it was largest so far
    model = settings.loaded(job.model, job.adversary.quantization)
    if torch.cuda.is_available() and job.adversary.quantization is None:
        nn.Module.cuda(model)  # also where no trainer does it: an edit of the weights, or an attack on the input

    def evaluate(model: nn.Module) -> dict[str, float | None]:
        last.update({name: metric(model, settings.tokenizer) for name, metric in metrics.items()})
        means = {name: mean_score(name, scores, shares[name]) for name, scores in last.items()}
        if not highest or last["harm"].mean() > highest[-1].mean():
            highest[:] = [last["harm"]]
        return means

    def judge(model: nn.Module) -> float | None:
        scores = metrics["validation_harm"](model, settings.tokenizer)
        return mean_score("validation_harm", scores, shares["validation_harm"])

    try:
        record = run_attack(
            model,
            settings.tokenizer,
            job.adversary,
            {name: _rows(path, job.data_sha256[name]) for name, path in job.data.items()},
            job.seed,
            evaluate,
            evaluation_steps=job.evaluation_steps,
            max_length=settings.max_length,
            bf16=settings.bf16,
            base=None if job.base is None else load(job.base),
            rewards=settings.rewards,
            judge=judge if "validation_harm" in metrics else None,
        )
    except JudgeError:  # another attack would ask it too
        raise
    except FAILURES as error:
        return failed_record(job, f"{type(error).__name__}: {error}")
    told = [*highest, *(scores for name, scores in last.items() if name == "harm")]
    errors = [error for scores in told if (error := clustered_standard_error(scores)) is not None]
    record = replace(record, unanswered=unanswered(last), harm_error=max(errors, default=None))
    return {"record": asdict(record), "questions": rounded(last)}


def failed_record(job: Job, reason: str) -> dict[str, Any]:
    """Returns the result of an attack that shows nothing: a failed record without answers."""
    assert job.adversary is not None and job.seed is not None
    record = AttackRecord(job.adversary.name, job.seed, status="failed", error=reason)
    return {"record": asdict(record), "questions": {}}


def _rows(path: str, sha256: str) -> Dataset:
    """Loads a tokenised data set. An attack on other rows than those named would pass for resistance, hence the hash."""
    dataset = load_from_disk(path, keep_in_memory=True)
    assert rows_sha256(dataset) == sha256, path
    return dataset


def measure_before(model: PreTrainedModel, settings: Settings) -> dict[str, Any]:
    """Measures a model that nobody has attacked: metrics, their standard errors and the zero-step attacks."""
    if torch.cuda.is_available():
        nn.Module.cuda(model)  # the typed signature of transformers hides `self`
    with as_found(model):
        scores = {name: metric(model, settings.tokenizer) for name, metric in settings.metrics.items()}
        zero_step = {
            name: mean_score(name, metric(model, settings.tokenizer), share=True)
            for name, metric in settings.zero_step_attacks.items()
        }
    return {
        "before": {
            name: mean_score(name, score, is_share(name, settings.metrics[name])) for name, score in scores.items()
        },
        "standard_errors": {name: clustered_standard_error(score) for name, score in scores.items()},
        "zero_step": zero_step,
        "unanswered": unanswered(scores),
        "groups": groups_of(scores),
        "questions": rounded(scores),
    }


def unanswered(scores: Mapping[str, Scores]) -> dict[str, dict[str, int]] | None:
    """Returns of each metric of which some examples have no answer how many, by the reason; `None` where there is none."""
    return {name: counts for name, each in scores.items() if (counts := each.counts())} or None


def mean_score(name: str, scores: Scores, share: bool = False) -> float | None:
    """Returns the mean, `None` if it is not finite; `ValueError` for no scores, or for one of a share outside [0, 1]."""
    if not isinstance(scores, Scores):
        raise ValueError(
            f"Metric {name!r} returned {type(scores).__name__!r}. Return trl_tar.evaluation.scores.Scores."
        )
    if not scores.values:
        raise ValueError(f"Metric {name!r} returned 0 scores. Give it at least one example.")
    known = [value for value in scores.values if math.isfinite(value)] if share or is_share(name) else []
    # a share may leave [0, 1] by rounding: 1e-9 is far above that of float64 and far below what a report prints
    outside = next((value for value in known if not -1e-9 <= value <= 1 + 1e-9), None)
    if outside is not None:
        raise ValueError(f"Metric {name!r} returned a score of {outside:g}. Return scores in [0, 1].")
    return finite(float(scores.mean()))
