"""The jobs of a red team: each is one file, written when it is finished, and none is done twice."""

import hashlib
import itertools
import json
import math
import os
import re
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..adversary import Adversary
from ..evaluation.judges import JudgeError
from ..evaluation.scores import Metric, Scores, takes_template
from ..questions import groups_of, rounded
from ..records import AttackRecord, finite, write_json
from ..statistics import clustered_standard_error
from .attack import run_attack
from .attackers import Reward, as_found
from .fingerprints import identity, rows_sha256, vocabulary_sha256
from .loading import load
from .ranks import devices, forget_launch, gathered, meet, num_ranks, rank


FORMAT = 6  # of job files; raise it when an attack or its record changes
PACKAGES = ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "schedulefree")  # that decide a result
# metrics that a report reads as shares, beside all attacks without training: each score must lie in [0, 1]
SHARES = ("harm", "capability", "bystander", "validation_harm", "benign", "repetition", "no_option", "over_refusal")
MEASURED = {"before", "standard_errors", "zero_step", "groups", "questions"}
ATTACKED = {"record", "questions"}
# what an attack may fail with: memory, files, a missing library, data or settings that TRL refuses. Anything else, such
# as TypeError, KeyError or ZeroDivisionError, is a bug here or in a metric, and ends the run: finished jobs are kept. So
# does a judge that fails
FAILURES = (RuntimeError, ValueError, OSError, MemoryError, ImportError)


@dataclass(frozen=True)
class Settings:
    """What all jobs share; sent once to each worker."""

    tokenizer: PreTrainedTokenizerBase
    metrics: Mapping[str, Metric]
    zero_step_attacks: Mapping[str, Metric]
    benign_metric: Metric | None
    max_length: int
    bf16: bool
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    identities: Mapping[tuple[str, str], str] = field(init=False)  # taken before a metric has cached anything

    def __post_init__(self):
        parts = {
            "metric": self.metrics,
            "zero-step": self.zero_step_attacks,
            "reward": self.rewards,
            "benign": {"benign": self.benign_metric},
        }
        taken = {(kind, name): identity(each) for kind, some in parts.items() for name, each in some.items()}
        object.__setattr__(self, "identities", taken)

    def key(self) -> dict[str, Any]:
        """What every result depends on."""
        return {
            "format": FORMAT,
            "packages": {name: version(name) for name in PACKAGES},
            "metrics": {name: self.identities["metric", name] for name in self.metrics},
            "tokenizer": vocabulary_sha256(self.tokenizer),
            "max_length": self.max_length,
            "bf16": self.bf16,
        }


@dataclass(frozen=True)
class Job:
    """A measurement (`adversary` is `None`), an attack, or a benign task, of one model.

    Args:
        model (`str`):
            Folder or Hub id.
        weights_sha256 (`str`):
            Hash of its weights.
        config_sha256 (`str`):
            Hash of its configuration: with another one the same weights answer otherwise.
        adversary ([`Adversary`], *optional*):
            The attack.
        seed (`int`, *optional*):
            Its seed.
        data (`dict[str, str]`, *optional*):
            Folder of each tokenised data set.
        data_sha256 (`dict[str, str]`, *optional*):
            Hash of each.
        evaluation_steps (`tuple[int, ...]`, *optional*):
            Where to evaluate, if not at the default steps.
        benign (`bool`, *optional*, defaults to `False`):
            A benign task, with metrics of its own.
        base (`str`, *optional*):
            Folder of the public base, for an attack that reads it.
        base_sha256 (`str`, *optional*):
            Hash of its weights.
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
        rewards = [] if self.adversary is None else [each.reward for each in self.adversary.sequence if each.reward]
        if rewards:
            key["rewards"] = [settings.identities["reward", name] for name in rewards]
        if self.adversary is None:
            key["zero_step"] = {name: settings.identities["zero-step", name] for name in settings.zero_step_attacks}
        if self.benign:
            key["benign"] = settings.identities["benign", "benign"]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
        label = "before" if self.adversary is None else f"{self.adversary.name}-seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9._=-]+', '_', label)[:80]}-{self.weights_sha256[:8]}-{digest}.json"


def run_jobs(jobs: Sequence[Job], settings: Settings, folder: Path, num_workers: int) -> list[dict[str, Any]]:
    """Results of all jobs, in order; a job whose file is in `folder` is not done again, unless it had failed.

    Under `accelerate launch` each process does its share, and returns the results of all.

    Args:
        jobs (`Sequence[Job]`):
            May hold the same job twice.
        settings ([`Settings`]):
            What they share.
        folder (`Path`):
            Of the job files.
        num_workers (`int`):
            Processes, each with one torch thread; 1 runs in this process, if that has no more than one GPU.
    """
    meet()
    names = [job.file_name(settings) for job in jobs]
    wanted = dict(zip(names, jobs, strict=True))
    # by place among all jobs and not among the missing ones, which another process may count later
    own = dict(itertools.islice(wanted.items(), rank(), None, num_ranks()))
    results = {name: result for name, job in own.items() if (result := _finished(folder / name, job)) is not None}
    missing = {name: job for name, job in own.items() if name not in results}
    with _progress_bar(len(own), len(results)) as advance:
        for name, result in _run_missing(missing, settings, num_workers):
            write_json(folder / name, result)
            results[name] = result
            advance()
    results = gathered(results)
    return [results[name] for name in names]


def run_job(job: Job, settings: Settings) -> dict[str, Any]:
    """The result of a job as JSON: of an attack its `record` and the answers to each of the `questions` at its end.

    An attack that raises is recorded as failed; [`JudgeError`] where a judge does."""
    if job.adversary is None:
        return measure_before(load(job.model), settings)
    assert job.seed is not None and job.data is not None and job.data_sha256 is not None
    metrics = settings.metrics
    if job.benign:
        assert settings.benign_metric is not None
        metrics = {"benign": settings.benign_metric, "capability": metrics["capability"], "harm": metrics["harm"]}
    if job.adversary.prompt_template is not None:
        template = {"prompt_template": job.adversary.prompt_template}
        metrics = {name: partial(m, **template) if takes_template(m) else m for name, m in metrics.items()}
    last: dict[str, Scores] = {}
    model = load(job.model, job.adversary.quantization)
    if torch.cuda.is_available() and job.adversary.quantization is None:
        nn.Module.cuda(model)  # also where no trainer does it: an edit of the weights, or an attack on the input

    def evaluate(model: nn.Module) -> dict[str, float | None]:
        last.update({name: metric(model, settings.tokenizer) for name, metric in metrics.items()})
        return {name: mean_score(name, scores) for name, scores in last.items()}

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
        )
    except JudgeError:  # another attack would ask it too
        raise
    except FAILURES as error:
        return _failed(job, f"{type(error).__name__}: {error}")
    return {"record": asdict(record), "questions": rounded(last)}


def _failed(job: Job, reason: str) -> dict[str, Any]:
    """An attack that shows nothing, without answers."""
    assert job.adversary is not None and job.seed is not None
    record = AttackRecord(job.adversary.name, job.seed, status="failed", error=reason)
    return {"record": asdict(record), "questions": {}}


def _rows(path: str, sha256: str) -> Dataset:
    """A tokenised data set; an attack on other rows than those named would pass for resistance."""
    dataset = load_from_disk(path, keep_in_memory=True)
    assert rows_sha256(dataset) == sha256, path
    return dataset


def measure_before(model: PreTrainedModel, settings: Settings) -> dict[str, Any]:
    """Metrics, their standard errors and the zero-step attacks of a model that nobody has attacked."""
    if torch.cuda.is_available():
        nn.Module.cuda(model)  # the typed signature of transformers hides `self`
    with as_found(model):
        scores = {name: metric(model, settings.tokenizer) for name, metric in settings.metrics.items()}
        zero_step = {
            name: mean_score(name, metric(model, settings.tokenizer), share=True)
            for name, metric in settings.zero_step_attacks.items()
        }
    return {
        "before": {name: mean_score(name, score) for name, score in scores.items()},
        "standard_errors": {name: clustered_standard_error(score) for name, score in scores.items()},
        "zero_step": zero_step,
        "groups": groups_of(scores),
        "questions": rounded(scores),
    }


def mean_score(name: str, scores: Scores, share: bool = False) -> float | None:
    """Mean, `None` if it is not finite; `ValueError` for no scores, or one outside [0, 1] of a share."""
    if not isinstance(scores, Scores):
        raise ValueError(
            f"Metric {name!r} returned {type(scores).__name__!r}. Return trl_tar.evaluation.scores.Scores."
        )
    if not scores.values:
        raise ValueError(f"Metric {name!r} returned 0 scores. Give it at least one example.")
    known = [value for value in scores.values if math.isfinite(value)] if share or name in SHARES else []
    outside = next((value for value in known if not -1e-9 <= value <= 1 + 1e-9), None)
    if outside is not None:
        raise ValueError(f"Metric {name!r} returned a score of {outside:g}. Return scores in [0, 1].")
    return finite(float(scores.mean()))


def _finished(file: Path, job: Job) -> dict[str, Any] | None:
    """The result in the file; `None` where there is none, where it failed, or where it is not whole."""
    if not file.is_file():
        return None
    wanted = MEASURED if job.adversary is None else ATTACKED
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not UTF-8
        result = None
    whole = isinstance(result, dict) and set(result) == wanted
    if whole and job.adversary is not None:
        record = result["record"]
        whole = isinstance(record, dict) and set(record) == {field.name for field in fields(AttackRecord)}
    if not whole or (job.adversary is None and not isinstance(result["before"], dict)):
        warnings.warn(f"{str(file)!r} is damaged: its job is done again.")
        return None
    return None if job.adversary is not None and result["record"]["status"] == "failed" else result


def _run_missing(
    missing: Mapping[str, Job], settings: Settings, num_workers: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    num_workers = min(num_workers, len(missing))
    if num_workers == 0:
        return
    # a trainer would spread over all processes that were launched, or all GPUs that it sees
    if num_workers == 1 and num_ranks() == 1 and torch.cuda.device_count() < 2:
        for name, job in missing.items():
            yield name, run_job(job, settings)
        return
    left = dict(missing)
    while left:  # a pool ends with the first of its workers that dies; another does the rest
        for name, result in _run_in_pool(dict(left), settings, num_workers):
            job = left.pop(name)
            yield name, _run_alone(job, settings) if result is None else result


def _run_alone(job: Job, settings: Settings) -> dict[str, Any]:
    """The result of a job that was running when a worker died, perhaps its own."""
    ((_, result),) = _run_in_pool({"": job}, settings, 1)
    if result is None and job.adversary is None:
        raise ChildProcessError(
            f"The worker that measured {job.model!r} died, most likely for lack of memory. Start again with the same "
            "output_dir where there is more: finished jobs are kept."
        )
    return result or _failed(job, "RuntimeError: its worker died, most likely for lack of memory")


def _run_in_pool(
    jobs: Mapping[str, Job], settings: Settings, num_workers: int
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Results as they come, until a worker dies: then `None` of each job that was running, and nothing of the others.

    An error ends the run once the other workers are done."""
    context = get_context("spawn")
    gpus = context.SimpleQueue()
    for gpu in devices(num_workers):
        gpus.put(gpu)
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(settings, gpus, num_ranks() > 1)
    )
    raised = None
    died: list[str] = []
    running: dict[Future, str] = {}
    waiting = iter(jobs.items())
    try:
        while True:
            with suppress(BrokenProcessPool):  # a worker died while nothing ran, or while jobs were handed out
                for name, job in itertools.islice(waiting, num_workers - len(running)):  # all handed out are running
                    running[pool.submit(_run_in_worker, job)] = name
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name, error = running.pop(future), future.exception()
                if error is None:
                    yield name, future.result()
                    continue
                waiting = iter(())  # those that run go on
                if isinstance(error, BrokenProcessPool):
                    died.append(name)
                else:
                    raised = raised or error
    finally:
        pool.shutdown(cancel_futures=True)
    if raised is not None:
        raise raised
    yield from ((name, None) for name in died)


_worker_settings: Settings | None = None  # set once in each worker process, so that metrics keep their caches


def _start_worker(settings: Settings, gpus: Any, launched: bool) -> None:
    global _worker_settings
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if launched:
        forget_launch()
    if not gpus.empty():
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus.get()  # before this process has used a GPU
    torch.set_num_threads(1)
    _worker_settings = settings


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed: it would wait for ever for another job, and keep its memory."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(job: Job) -> dict[str, Any]:
    assert _worker_settings is not None
    return run_job(job, _worker_settings)


@contextmanager
def _progress_bar(total: int, done: int) -> Iterator[Callable[[], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    label = "red team" if num_ranks() == 1 else f"red team, process 1 of {num_ranks()}"
    with Progress(*columns, console=Console(stderr=True), disable=rank() > 0) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda: progress.advance(task)
