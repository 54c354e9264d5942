"""The jobs of a red team are run: each is one file, written when it is finished, and none is done twice."""

import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..distributed.processes import gathered, meet, num_ranks, rank
from ..files import write_json
from ..report.records import AttackRecord
from ..views.words import number
from .job import Job, Settings
from .workers import run_missing


MEASURED = {"before", "standard_errors", "zero_step", "unanswered", "groups", "questions"}
ATTACKED = {"record", "questions"}


def run_jobs(
    jobs: Sequence[Job], settings: Settings, folder: Path, num_workers: int, label: str = "red team"
) -> list[dict[str, Any]]:
    """Runs the jobs whose files are missing from `folder`, or that had failed, and returns the results of all.

    Under `accelerate launch` each process does its share, and returns the results of all.

    Args:
        jobs (`Sequence[Job]`):
            The jobs; the same one may be there twice.
        settings ([`Settings`]):
            What they share.
        folder (`Path`):
            Folder of the job files.
        num_workers (`int`):
            Processes, each with one torch thread; 1 runs in this process, if that has no more than one GPU.
        label (`str`, *optional*, defaults to `"red team"`):
            What stands before the progress bar until the first job has ended; then which did last, and what came of it.

    Returns:
        `list[dict]`: the result of each job, in the order of `jobs`.
    """
    meet()
    names = [job.file_name(settings) for job in jobs]
    wanted = dict(zip(names, jobs, strict=True))
    # by place among all jobs and not among the missing ones, which another process may count later
    own = dict(itertools.islice(wanted.items(), rank(), None, num_ranks()))
    results = {name: result for name, job in own.items() if (result := _finished(folder / name, job)) is not None}
    missing = {name: job for name, job in own.items() if name not in results}
    with _progress_bar(label, len(own), len(results)) as advance:
        for name, result in run_missing(missing, settings, num_workers):
            write_json(folder / name, result)
            results[name] = result
            advance(_ended(missing[name], result))
    results = gathered(results)
    return [results[name] for name in names]


def _finished(file: Path, job: Job) -> dict[str, Any] | None:
    """Returns the result in the file; `None` where there is none, where it failed, or where it is not whole."""
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


@contextmanager
def _progress_bar(label: str, total: int, done: int) -> Iterator[Callable[[str], None]]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),  # half of rich's, so that 80 columns hold what is before it
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    if num_ranks() > 1:
        label = f"{label}, process 1 of {num_ranks()}"
    with Progress(*columns, console=Console(stderr=True), disable=rank() > 0) as progress:
        task = progress.add_task(label, total=total, completed=done)
        yield lambda ended: progress.update(task, advance=1, description=ended)


def _ended(job: Job, result: dict[str, Any]) -> str:
    """What the bar says of the job that ended last: its model and attack, and what came of it."""
    model = Path(job.model).name
    if job.adversary is None:
        return f"{model}: harm {number(result['before'].get('harm'))} before attack"
    record = result["record"]
    metric = "benign" if job.benign else "harm"
    came = record["status"] if record["after"] is None else f"{metric} {number(record['after'].get(metric))}"
    return f"{model}, {job.adversary.name}, seed {job.seed}: {came}"
